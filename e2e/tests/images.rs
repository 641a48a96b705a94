//! The image archives, as engines take them in: user, environment, entry point, command, labels and architectures arrive.

#![forbid(unsafe_code)]

use paperboat_e2e::docker::Docker;
use paperboat_e2e::expect;
use paperboat_e2e::host::{RUNTIME, image};
use paperboat_e2e::products::Docker as Release;
use serde_json::{Value, json};

/// What an image says of its containers.
struct Expected {
    name: &'static str,
    user: &'static str,
    entrypoint: &'static [&'static str],
    command: &'static [&'static str],
}

const IMAGES: [Expected; 3] = [
    Expected { name: "busybox", user: "", entrypoint: &[], command: &["sh"] },
    Expected { name: "debian", user: "", entrypoint: &[], command: &["bash"] },
    Expected { name: "pause", user: "65535:65535", entrypoint: &["/pause"], command: &[] },
];

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

#[test]
fn engines_take_every_archive() {
    let docker = Docker::start(Release::V26).unwrap_or_else(|error| panic!("{error}"));
    let host = docker.host();
    let before = host.leftovers();
    let done = |arguments: &[&str]| -> String {
        let output = docker.docker(arguments).unwrap();
        assert_eq!(output.code(), Some(0), "{arguments:?}: {output:#?}");
        output.stdout
    };
    let inspect = |reference: &str| -> Value {
        serde_json::from_str(&done(&["image", "inspect", "--format", "{{json .}}", reference])).unwrap()
    };
    for expected in IMAGES {
        let name = expected.name;
        docker.load(name).unwrap();
        let image_json = inspect(&image(name));
        assert_eq!(image_json["Architecture"], "ppc64le", "{name}");
        let config = &image_json["Config"];
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        assert_eq!(config["User"].as_str().unwrap_or_default(), expected.user, "{name}");
        assert_eq!(list(&config["Entrypoint"]), list(&json!(expected.entrypoint)), "{name}");
        assert_eq!(list(&config["Cmd"]), list(&json!(expected.command)), "{name}");
        assert_eq!(config["Env"], json!([PATH]), "{name}");
        assert_eq!(config["Labels"]["org.opencontainers.image.title"], name);

        // containerd: the container that ctr makes of the image, as its specification has it.
        host.import(name, "linux/ppc64le").unwrap();
        let created = host.ctr(&["container", "create", "--runtime", RUNTIME, &image(name), name]).unwrap();
        expect::code(host, &created, 0);
        let info: Value = serde_json::from_str(&host.ctr(&["container", "info", name]).unwrap().stdout).unwrap();
        let process = &info["Spec"]["process"];
        let words = [expected.entrypoint, expected.command].concat();
        assert_eq!(process["args"], json!(words), "{name}");
        assert!(list(&process["env"]).contains(&json!(PATH)), "{name}: {}", process["env"]);
        let ids = (process["user"]["uid"].as_u64(), process["user"]["gid"].as_u64());
        assert_eq!(ids, if expected.user.is_empty() { (Some(0), Some(0)) } else { (Some(65535), Some(65535)) }, "{name}");
        assert_eq!(info["Labels"]["org.opencontainers.image.title"], name, "{}", info["Labels"]);
        expect::code(host, &host.ctr(&["container", "delete", name]).unwrap(), 0);
    }

    // The index: containerd picks by platform, Docker has a tag for each.
    docker.load("platforms").unwrap();
    for (docker_name, platform, machine) in [("amd64", "linux/amd64", 62u8), ("ppc64le", "linux/ppc64le", 21)] {
        assert_eq!(inspect(&format!("paperboat.local/platforms:{docker_name}"))["Architecture"], docker_name);
        host.import("platforms", platform).unwrap();
        let target = host.directory().join(docker_name);
        std::fs::create_dir(&target).unwrap();
        let target_name = target.display().to_string();
        let mounted = host.ctr(&["images", "mount", "--platform", platform, &image("platforms"), &target_name]).unwrap();
        expect::code(host, &mounted, 0);
        // e_machine of the ELF header: 62 is x86-64, 21 is PPC64.
        assert_eq!(std::fs::read(target.join("bin/busybox")).unwrap()[18], machine, "{platform}");
        expect::code(host, &host.ctr(&["images", "unmount", "--rm", &target_name]).unwrap(), 0);
    }
    expect::nothing_left(host, &before);
}
