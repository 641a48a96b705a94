//! The OCI images of the demo and the tests, made from Debian's packages.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use oci_spec::image::Arch;

use crate::apt::{AptRoot, Deb, Suite};
use crate::cache::Inputs;
use crate::ctx::Ctx;
use crate::engines::Scope;
use crate::guest;
use crate::layer::Layer;
use crate::oci::{Archive, Behaviour, PATH};
use crate::run::capture;
use crate::setup::Host;

/// The release the images are made of.
const RELEASE: &str = "trixie";
/// Raised when the way an image is put together changes.
const RECIPE: &str = "1";
/// What the `debian` image offers; the rest of the list is what these need to work without their scripts.
const DEBIAN: &[&str] = &[
    "base-files",
    "base-passwd",
    "bash",
    "ca-certificates",
    "coreutils",
    "dash",
    "findutils",
    "grep",
    "gzip",
    "hostname",
    "iproute2",
    "libc-bin",
    "mawk",
    "mount",
    "ncurses-base",
    "procps",
    "python3",
    "sed",
    "tar",
    "util-linux",
];

/// What the `workbench` image has beyond `debian`: servers, databases, a compiler.
const WORKBENCH: &[&str] = &["gcc", "git", "iperf3", "libc6-dev", "make", "redis-server", "sqlite3"];
/// Parts of packages that nobody needs here, large ones: link-time optimisation, Perl's modules.
const UNUSED: &[&str] = &["usr/libexec/gcc/powerpc64le-linux-gnu/14/lto1", "usr/share/perl/"];

/// Makes all images that `scope` needs. Returns their names and archives.
pub fn prepare(ctx: &Ctx, host: &Host, scope: Scope) -> Result<Vec<(&'static str, PathBuf)>> {
    debug_tools(ctx, host)?;
    let mut made = vec![
        ("busybox", busybox(ctx, host)?),
        ("pause", pause(ctx, host)?),
        ("platforms", platforms(ctx, host)?),
        ("debian", debian(ctx, "debian", &[], "Debian trixie with bash, coreutils, procps, python3 and iproute2")?),
    ];
    if !host.is_power() {
        made.push(("pause-host", pause_of_host(ctx)?));
    }
    if scope == Scope::All {
        let description = "Debian trixie with redis, sqlite3, iperf3, git, gcc and make";
        made.push(("workbench", debian(ctx, "workbench", WORKBENCH, description)?));
    }
    Ok(made)
}

/// Makes the `busybox` image: one static program with a name for each of its tools.
pub fn busybox(ctx: &Ctx, host: &Host) -> Result<PathBuf> {
    let parts = Busybox::fetch(ctx, host)?;
    image(ctx, "busybox", parts.inputs(), |archive| {
        archive.image(Arch::PowerPC64le, &parts.layer(&parts.guest)?, &parts.behaviour())
    })
}

/// The program behind `paperboat exec-vm`: the same busybox, alone.
pub fn debug_tools(ctx: &Ctx, host: &Host) -> Result<PathBuf> {
    const NAME: &str = "debug-tools";
    let parts = Busybox::fetch(ctx, host)?;
    let inputs = Inputs::new().with(&parts.guest.file, &parts.guest.sha256);
    let dir = ctx.step(NAME, &inputs, None, |step| {
        parts.guest_apt.fetch(std::slice::from_ref(&parts.guest))?;
        write_program(&step.stage.join(NAME), &busybox_of(&parts.guest.path)?)
    })?;
    ctx.cache.publish("images/debug-tools", &dir.join(NAME))
}

/// The guest's busybox and the names of its tools, for others than images, with what identifies them.
pub fn busybox_tools(ctx: &Ctx, host: &Host) -> Result<(Vec<u8>, Vec<String>, Inputs)> {
    let parts = Busybox::fetch(ctx, host)?;
    parts.download()?;
    Ok((busybox_of(&parts.guest.path)?, parts.tools()?, parts.inputs()))
}

/// One name, two architectures: what a client picks is what tests of platform choice look at.
fn platforms(ctx: &Ctx, host: &Host) -> Result<PathBuf> {
    let parts = Busybox::fetch(ctx, host)?;
    image(ctx, "platforms", parts.inputs().with("tags", "each"), |archive| {
        archive.image(Arch::Amd64, &parts.layer(&parts.amd64)?, &parts.behaviour())?;
        archive.image(Arch::PowerPC64le, &parts.layer(&parts.guest)?, &parts.behaviour())
    })
}

/// The image of a pod's first container: a program that waits and collects orphans.
fn pause(ctx: &Ctx, host: &Host) -> Result<PathBuf> {
    pause_image(ctx, "pause", Arch::PowerPC64le, &guest::c_program(ctx, host, "pause", guest::SMALL)?)
}

/// The same for pods of other runtimes on this host.
fn pause_of_host(ctx: &Ctx) -> Result<PathBuf> {
    let program = guest::native_c_program(ctx, "pause", guest::SMALL)?;
    pause_image(ctx, "pause-host", Arch::Amd64, &program)
}

fn pause_image(ctx: &Ctx, name: &'static str, arch: Arch, program: &Path) -> Result<PathBuf> {
    let inputs = Inputs::new().with_file(program)?;
    image(ctx, name, inputs, |archive| {
        let mut layer = Layer::default();
        layer.file("pause", 0o755, fs::read(program)?);
        // As the well-known image of this name: no shell, no user of its own.
        let how = Behaviour {
            user: "65535:65535",
            env: vec![PATH.into()],
            entrypoint: vec!["/pause".into()],
            labels: labels(name, "waits for the end of its pod"),
            ..Behaviour::default()
        };
        archive.image(arch, &layer, &how)
    })
}

/// A small Debian: shell, tools, Python, and `more` packages.
fn debian(ctx: &Ctx, name: &'static str, more: &[&str], description: &str) -> Result<PathBuf> {
    let apt = AptRoot::open(ctx, Suite { release: RELEASE.into(), arch: "ppc64el".into(), security: false })?;
    let debs = apt.closure(&[DEBIAN, more].concat())?;
    image(ctx, name, inputs_of(&debs), |archive| {
        apt.fetch(&debs)?;
        let how = Behaviour {
            env: vec![PATH.into()],
            cmd: vec!["bash".into()],
            labels: labels(name, description),
            ..Behaviour::default()
        };
        archive.image(Arch::PowerPC64le, &debian_layer(&debs)?, &how)
    })
}

/// Unpacks the packages and does by hand what their scripts would do.
fn debian_layer(debs: &[Deb]) -> Result<Layer> {
    let mut layer = Layer::default();
    // base-files brings /bin -> usr/bin and the like: the others land behind them.
    let (first, rest): (Vec<&Deb>, Vec<&Deb>) = debs.iter().partition(|deb| deb.file.starts_with("base-files_"));
    for deb in first.into_iter().chain(rest) {
        layer.add_deb(&deb.path)?;
    }
    let copy = |layer: &mut Layer, from: &str, to: &str| -> Result<()> {
        let content = layer.content(from).with_context(|| format!("the packages contain no {from}"))?.to_vec();
        layer.file(to, 0o644, content);
        Ok(())
    };
    copy(&mut layer, "usr/share/base-passwd/passwd.master", "etc/passwd")?;
    copy(&mut layer, "usr/share/base-passwd/group.master", "etc/group")?;
    copy(&mut layer, "usr/share/libc-bin/nsswitch.conf", "etc/nsswitch.conf")?;
    let mut bundle = Vec::new();
    for (path, certificate) in layer.files_below("usr/share/ca-certificates/mozilla/") {
        if path.ends_with(".crt") {
            bundle.extend_from_slice(certificate);
        }
    }
    layer.file("etc/ssl/certs/ca-certificates.crt", 0o644, bundle);
    layer.symlink("usr/bin/sh", "dash");
    layer.symlink("usr/bin/awk", "mawk");
    layer.file("etc/hostname", 0o644, "debian\n");
    UNUSED.iter().for_each(|path| layer.drop_below(path, |_| false));
    for below in ["usr/share/doc/", "usr/share/man/", "usr/share/locale/", "usr/share/lintian/", "usr/share/info/"] {
        // Licences stay with what they cover.
        layer.drop_below(below, |path| path.ends_with("/copyright"));
    }
    Ok(layer)
}

struct Busybox<'a> {
    guest_apt: AptRoot<'a>,
    amd64_apt: AptRoot<'a>,
    guest: Deb,
    amd64: Deb,
    /// The variant that runs on this machine: it knows its own list of tools.
    native: PathBuf,
}

impl<'a> Busybox<'a> {
    fn fetch(ctx: &'a Ctx, host: &Host) -> Result<Self> {
        let open = |arch: &str| AptRoot::open(ctx, Suite { release: RELEASE.into(), arch: arch.into(), security: false });
        let (guest_apt, amd64_apt) = (open("ppc64el")?, open("amd64")?);
        let guest = guest_apt.packages(&["busybox-static"])?.remove(0);
        let amd64 = amd64_apt.packages(&["busybox-static"])?.remove(0);
        let native = if host.is_power() { guest.path.clone() } else { amd64.path.clone() };
        Ok(Self { guest_apt, amd64_apt, guest, amd64, native })
    }

    fn inputs(&self) -> Inputs {
        inputs_of(&[self.guest.clone(), self.amd64.clone()])
    }

    fn behaviour(&self) -> Behaviour {
        Behaviour {
            env: vec![PATH.into()],
            cmd: vec!["sh".into()],
            labels: labels("busybox", "Debian's static busybox"),
            ..Behaviour::default()
        }
    }

    fn download(&self) -> Result<()> {
        self.guest_apt.fetch(std::slice::from_ref(&self.guest))?;
        self.amd64_apt.fetch(std::slice::from_ref(&self.amd64))
    }

    fn layer(&self, deb: &Deb) -> Result<Layer> {
        self.download()?;
        let program = busybox_of(&deb.path)?;
        let mut layer = Layer::default();
        for dir in ["bin", "dev", "etc", "home", "proc", "sys", "usr", "usr/bin", "usr/sbin", "var"] {
            layer.directory(dir, 0o755);
        }
        layer.directory("root", 0o700);
        layer.directory("tmp", 0o1777);
        layer.file("bin/busybox", 0o755, program);
        for tool in self.tools()? {
            layer.symlink(&format!("bin/{tool}"), "busybox");
        }
        layer.symlink("sbin", "bin");
        layer.file("etc/passwd", 0o644, "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/home:/bin/false\n");
        layer.file("etc/group", 0o644, "root:x:0:\nnobody:x:65534:\n");
        layer.file("etc/nsswitch.conf", 0o644, "passwd: files\ngroup: files\nhosts: files dns\n");
        Ok(layer)
    }

    /// The tools' names, by asking the native variant of the same package.
    fn tools(&self) -> Result<Vec<String>> {
        let program = busybox_of(&self.native)?;
        let path = std::env::temp_dir().join(format!("paperboat-busybox-{}", std::process::id()));
        let listed = write_program(&path, &program).and_then(|()| capture(Command::new(&path).arg0("busybox").arg("--list")));
        let _ = fs::remove_file(&path);
        Ok(listed?.lines().map(str::to_owned).filter(|tool| tool != "busybox").collect())
    }
}

/// The program in a package file of busybox-static.
fn busybox_of(deb: &Path) -> Result<Vec<u8>> {
    let mut package = Layer::default();
    package.add_deb(deb)?;
    let program = package.content("usr/bin/busybox").or_else(|| package.content("bin/busybox"));
    Ok(program.context("busybox-static contains no busybox")?.to_vec())
}

fn write_program(path: &Path, content: &[u8]) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::write(path, content)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

fn image(ctx: &Ctx, name: &'static str, inputs: Inputs, fill: impl FnOnce(&mut Archive) -> Result<()>) -> Result<PathBuf> {
    let inputs = inputs.with("recipe", RECIPE);
    let dir = ctx.step(&format!("image-{name}"), &inputs, None, |step| {
        let mut archive = Archive::new(&reference(name));
        fill(&mut archive)?;
        fs::write(step.stage.join(format!("{name}.tar")), archive.finish()?).context("write the image")
    })?;
    ctx.cache.publish(&format!("images/{name}.tar"), &dir.join(format!("{name}.tar")))
}

/// The name under which clients find the image after import.
pub fn reference(name: &str) -> String {
    format!("paperboat.local/{name}:latest")
}

fn inputs_of(debs: &[Deb]) -> Inputs {
    debs.iter().fold(Inputs::new(), |inputs, deb| inputs.with(&deb.file, &deb.sha256))
}

fn labels(title: &str, description: &str) -> BTreeMap<String, String> {
    BTreeMap::from([
        ("org.opencontainers.image.title".to_owned(), title.to_owned()),
        ("org.opencontainers.image.description".to_owned(), description.to_owned()),
        ("org.opencontainers.image.vendor".to_owned(), "Paperboat".to_owned()),
    ])
}
