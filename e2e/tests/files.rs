//! What containers see of their host's files.

#![forbid(unsafe_code)]

use paperboat_e2e::host::image;
use paperboat_e2e::{Host, leaks};

#[test]
fn a_host_directory_is_a_volume() {
    let volume = tempfile::tempdir().unwrap();
    std::fs::write(volume.path().join("from-host"), "hello\n").unwrap();
    let mount = format!("type=bind,src={},dst=/data,options=rbind:rw", volume.path().display());
    let read_only = format!("type=bind,src={},dst=/fixed,options=rbind:ro", volume.path().display());
    let host = Host::start().unwrap_or_else(|error| panic!("{error}"));
    let before = host.leftovers();
    let script = "cat /data/from-host; echo there > /data/from-guest; echo no > /fixed/x && echo WRITTEN; exit 0";
    let options = ["--mount", &mount, "--mount", &read_only];
    let output = host.run_with(&options, &image("busybox"), "volume", &["sh", "-c", script]).unwrap();
    assert_eq!((output.code(), output.stdout.as_str()), (Some(0), "hello\n"), "{output:#?}\n{}", host.log());
    assert_eq!(std::fs::read_to_string(volume.path().join("from-guest")).unwrap(), "there\n");
    let left = leaks::settle(&host, &before);
    assert!(left.is_empty(), "left behind: {left:#?}");
    // The pod's end took the mounts away, not what was in them.
    assert!(volume.path().join("from-host").exists());
}
