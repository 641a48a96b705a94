//! `cargo xtask` where something is missing or in the way: one line that names the cure, and nothing half-made in the cache.
//!
//! Each test has a cache of its own. Those that get as far as making something share package lists and packages with the real one, by
//! links; nothing is fetched.

#![forbid(unsafe_code)]

use std::fs::File;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use paperboat_e2e::Products;
use paperboat_e2e::host::{Output, finish};
use tempfile::TempDir;

/// A chore that fails early, or makes an image, is done within this time even on a busy machine.
const LIMIT: Duration = Duration::from_secs(180);

/// Pause between two looks.
const POLL: Duration = Duration::from_millis(5);

/// `nobody` and its group, as Debian numbers them.
const NOBODY: &str = "65534";

fn xtask() -> PathBuf {
    PathBuf::from(std::env::var_os("PAPERBOAT_XTASK").expect("run this through `cargo xtask test`"))
}

/// The cache that the products of this run are in.
fn real_cache() -> PathBuf {
    let images = Products::from_environment().unwrap().images;
    images.ancestors().nth(2).unwrap().to_owned()
}

/// An empty cache; `shared` are directories of the real one that it has too.
fn cache(shared: &[&str]) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join("paperboat")).unwrap();
    for name in shared {
        symlink(real_cache().join(name), directory.path().join("paperboat").join(name)).unwrap();
    }
    directory
}

fn chore(cache: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(xtask());
    command.args(arguments).env("XDG_CACHE_HOME", cache);
    command
}

/// Fails unless the chore failed with one line of error that has these words.
#[track_caller]
fn expect_error(output: &Output, words: &[&str]) {
    assert_eq!(output.code(), Some(1), "{output:#?}");
    let at = output.stderr.find("error: ").unwrap_or_else(|| panic!("no error: {output:#?}"));
    let error = output.stderr[at..].trim_end();
    assert_eq!(error.lines().count(), 1, "{error}");
    for word in words {
        assert!(error.contains(word), "{word:?} is not in: {error}");
    }
}

/// Everything in directories where only finished things may be, and where unfinished ones are made.
fn contents(cache: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open: Vec<PathBuf> = ["store", "products", "tmp"].map(|name| cache.join("paperboat").join(name)).into();
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                open.push(path.clone());
            }
            found.push(path);
        }
    }
    found
}

/// A directory with one program of ours, and a PATH that begins there.
fn stand_in(name: &str, script: &str) -> (TempDir, String) {
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join(name);
    std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
    for path in [directory.path(), &program] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let path = format!("{}:{}", directory.path().display(), std::env::var("PATH").unwrap_or_default());
    (directory, path)
}

/// The command as user nobody, with the program where that user can reach it.
fn as_nobody(cache: &Path, arguments: &[&str]) -> (TempDir, Command) {
    let place = tempfile::tempdir().unwrap();
    let program = place.path().join("xtask");
    std::fs::copy(xtask(), &program).unwrap();
    for path in [place.path(), cache] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"]).arg(program).args(arguments);
    command.env("XDG_CACHE_HOME", cache);
    (place, command)
}

#[test]
fn another_architecture_is_told_at_once() {
    let cache = cache(&[]);
    let (_directory, path) = stand_in("dpkg", "echo riscv64");
    let mut command = chore(cache.path(), &["kernel"]);
    expect_error(
        &finish(
            {
                command.env("PATH", path);
                command
            },
            LIMIT,
        )
        .unwrap(),
        &["amd64 and ppc64el", "riscv64"],
    );
    assert!(contents(cache.path()).is_empty());
}

#[test]
fn missing_packages_are_named_to_those_who_cannot_install_them() {
    let cache = cache(&[]);
    std::os::unix::fs::chown(cache.path().join("paperboat"), Some(65534), Some(65534)).unwrap();
    let (_directory, path) = stand_in("dpkg-query", "/usr/bin/dpkg-query \"$@\" | grep -v -e '^flex ' -e '^bison '");
    let (_place, mut command) = as_nobody(cache.path(), &["setup"]);
    command.env("PATH", &path);
    expect_error(&finish(command, LIMIT).unwrap(), &["as root", "apt-get install", " bison flex"]);
    // Who could install them, but must not fetch, is told the same.
    let mut offline = chore(cache.path(), &["--offline", "setup"]);
    offline.env("PATH", &path);
    expect_error(&finish(offline, LIMIT).unwrap(), &["--offline", "apt-get install", " bison flex"]);
}

#[test]
fn a_cache_that_cannot_be_written_is_named() {
    let cache = cache(&[]);
    let (_place, command) = as_nobody(cache.path(), &["setup"]);
    expect_error(&finish(command, LIMIT).unwrap(), &["cannot be written", "XDG_CACHE_HOME", "Permission denied"]);
}

#[test]
fn without_a_network_nothing_half_fetched_stays() {
    let cache = cache(&[]);
    let mut command = Command::new("unshare");
    command.args(["--net", "--"]).arg(xtask()).arg("images").env("XDG_CACHE_HOME", cache.path());
    expect_error(&finish(command, LIMIT).unwrap(), &["no network", "--offline"]);
    assert!(contents(cache.path()).is_empty(), "{:?}", contents(cache.path()));
    let lists = std::fs::read_dir(cache.path().join("paperboat/apt")).into_iter().flatten().count();
    assert_eq!(lists, 0, "package lists that are not complete");
    expect_error(&finish(chore(cache.path(), &["--offline", "images"]), LIMIT).unwrap(), &["not cached", "without --offline"]);
}

#[test]
fn a_full_disk_leaves_nothing_half_written() {
    let place = tempfile::tempdir().unwrap();
    let real = real_cache();
    let script = r#"set -e; mount -t tmpfs -o size=1m tmpfs "$1"; mkdir "$1/paperboat"
        ln -s "$2/apt" "$2/debs" "$1/paperboat/"; code=0; "$3" --offline images || code=$?
        find "$1/paperboat/store" "$1/paperboat/products" "$1/paperboat/tmp" -mindepth 1; exit $code"#;
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script, "sh"]).arg(place.path()).arg(real).arg(xtask());
    let output = finish(
        {
            command.env("XDG_CACHE_HOME", place.path());
            command
        },
        LIMIT,
    )
    .unwrap();
    expect_error(&output, &["the disk is full", "cargo xtask clean"]);
    assert_eq!(output.stdout, "", "left behind");
}

#[test]
fn a_damaged_package_is_never_used() {
    let cache = cache(&["apt"]);
    let debs = cache.path().join("paperboat/debs");
    std::fs::create_dir(&debs).unwrap();
    // Each is there by its name, and cut short.
    for entry in std::fs::read_dir(real_cache().join("debs")).unwrap() {
        std::fs::write(debs.join(entry.unwrap().file_name()), "!<arch>\n").unwrap();
    }
    let output = finish(chore(cache.path(), &["--offline", "images"]), LIMIT).unwrap();
    expect_error(&output, &["damaged", "busybox-static", "without --offline"]);
    assert!(contents(cache.path()).iter().all(|path| path.is_dir()), "{:?}", contents(cache.path()));
}

#[test]
fn two_chores_take_turns() {
    let cache = cache(&[]);
    std::fs::create_dir(cache.path().join("paperboat/store")).unwrap();
    std::fs::write(cache.path().join("paperboat/store/kept"), "").unwrap();
    let file = File::create(cache.path().join("paperboat/lock")).unwrap();
    let lock = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| errno).unwrap();
    let told = cache.path().join("told");
    let mut second = chore(cache.path(), &["clean"]).stderr(File::create(&told).unwrap()).spawn().unwrap();
    let deadline = Instant::now() + LIMIT;
    while !std::fs::read_to_string(&told).unwrap().contains("waiting for another cargo xtask") {
        assert!(Instant::now() < deadline && second.try_wait().unwrap().is_none(), "it does not wait");
        std::thread::sleep(POLL);
    }
    assert!(cache.path().join("paperboat/store/kept").exists());
    drop(lock);
    assert!(second.wait().unwrap().success());
    assert!(!cache.path().join("paperboat/store/kept").exists());
}

#[test]
fn a_chore_that_was_killed_starts_again_cleanly() {
    let cache = cache(&["apt", "debs"]);
    let tmp = cache.path().join("paperboat/tmp");
    let products = cache.path().join("paperboat/products/images");
    let started = || {
        let mut command = chore(cache.path(), &["--offline", "images"]);
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    };
    let wait_for = |what: &dyn Fn() -> bool, child: &mut std::process::Child| {
        let deadline = Instant::now() + LIMIT;
        while !what() {
            assert!(Instant::now() < deadline && child.try_wait().unwrap().is_none(), "it ended too early");
            std::thread::sleep(POLL);
        }
        kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGKILL).unwrap();
        assert!(!child.wait().unwrap().success());
    };
    let being_made = |name: &str| {
        let entries = std::fs::read_dir(&tmp).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name()).any(|entry| entry.to_string_lossy().starts_with(name))
    };
    wait_for(&|| being_made("image-busybox"), &mut started());
    // What was finished is there, what was not is nowhere but where unfinished things are.
    let made = std::fs::read_dir(&products).unwrap().flatten().map(|entry| entry.file_name()).collect::<Vec<_>>();
    assert_eq!(made, ["debug-tools"]);
    assert!(!cache.path().join("paperboat/store/image-busybox").exists());
    wait_for(&|| products.join("busybox.tar").exists(), &mut started());
    let bytes = |cache: &Path| std::fs::read(cache.join("products/images/busybox.tar")).unwrap();
    assert!(bytes(&cache.path().join("paperboat")) == bytes(&real_cache()), "the image is another one");
}
