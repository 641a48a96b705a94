//! What the lab is given to run: Paperboat's programs and tests, cross-built, beside what every pod needs.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::cases;
use crate::cache::{Inputs, file_digest, remove_tree};
use crate::chores::HOST_PACKAGES;
use crate::ctx::Ctx;
use crate::engines::Scope;
use crate::run::Log;
use crate::setup::Host;
use crate::toolchain::{Linkage, Toolchain};
use crate::{guest, images, kernel, probes, stock, toolchain};

/// Programs of a host.
const PROGRAMS: &[&str] = &["containerd-shim-paperboat-v1", "paperboat-vmm", "paperboat"];
/// The package whose tests show KVM by itself, and its tests.
const KVM: (&str, &[&str]) = ("paperboat-kvm", &["guest"]);
/// The package of the end-to-end suites.
const SUITES: &str = "paperboat-e2e";

/// Files by the name that they have below /lab/products.
pub struct Programs {
    files: Vec<(String, PathBuf)>,
}

impl Programs {
    /// Builds what is missing; of test programs, the longest part, and images those whose names in the lab are `wanted`; of Debian's kernels
    /// those of `scope`.
    pub fn prepare(ctx: &Ctx, host: &Host, wanted: impl Fn(&str) -> bool, scope: Scope) -> Result<Self> {
        let tools = toolchain::prepare(ctx, host)?;
        let packages: Vec<&str> = HOST_PACKAGES.iter().flat_map(|name| ["-p", name]).collect();
        let built = guest::cargo_build(ctx, &tools, "ppc64le", &packages, Linkage::Dynamic)?;
        let mut files: Vec<(String, PathBuf)> = PROGRAMS.iter().map(|name| (format!("bin/{name}"), built.join(name))).collect();
        for (package, prefix, tests) in [(KVM.0, "kvm", KVM.1.to_vec()), (SUITES, "e2e", cases::suite_names().collect())] {
            let name = |test: &str| format!("tests/{prefix}-{test}");
            let tests: Vec<&str> = tests.into_iter().filter(|test| wanted(&name(test))).collect();
            for test in build_tests(ctx, &tools, package, &tests)? {
                files.push((name(&test.target.name), test.executable));
            }
        }
        for (_, path) in &mut files {
            *path = strip(ctx, host, path)?;
        }
        let agent = guest::agent(ctx, host, &tools)?;
        files.push(("initramfs.cpio".into(), guest::initramfs(ctx, &agent)?));
        files.push(("userland.cpio".into(), userland(ctx, host)?));
        files.push(("shell.cpio".into(), stock::shell(ctx, host)?));
        files.extend(probes::on_power(ctx, host)?);
        files.push(("hostile.cpio".into(), stock::hostile(ctx, host)?));
        files.push(("vmlinux".into(), kernel::prepare(ctx, host)?.vmlinux));
        let stock = stock::kernels(ctx, scope)?;
        files.extend(stock.into_iter().map(|(name, _, path)| (format!("kernels/{name}"), path)));
        files.push(("images/debug-tools".into(), images::debug_tools(ctx, host)?));
        let images = if wanted("images/workbench.tar") { Scope::All } else { Scope::Demo };
        let archives = images::prepare(ctx, host, images)?;
        files.extend(archives.into_iter().map(|(name, path)| (format!("images/{name}.tar"), path)));
        Ok(Self { files })
    }

    /// Adds a file by the name that it has in the lab.
    pub fn add(&mut self, name: &str, path: PathBuf) {
        self.files.push((name.to_owned(), path));
    }

    /// The file that has this name in the lab.
    pub fn path(&self, name: &str) -> Result<&Path> {
        let file = self.files.iter().find(|(known, _)| known == name);
        file.map(|(_, path)| path.as_path()).with_context(|| format!("{name} is not among the lab's files"))
    }

    /// Puts what is wanted below `dir`, where the lab finds it, and nothing else.
    pub fn publish(&self, dir: &Path, wanted: impl Fn(&str) -> bool) -> Result<()> {
        remove_tree(dir)?;
        for (name, source) in self.files.iter().filter(|(name, _)| wanted(name)) {
            let target = dir.join(name);
            fs::create_dir_all(target.parent().context("a file has a directory")?)?;
            fs::copy(source, &target).with_context(|| format!("copy {} to {}", source.display(), target.display()))?;
        }
        Ok(())
    }

    /// Identity of every byte of those that are wanted.
    pub fn inputs(&self, wanted: impl Fn(&str) -> bool) -> Result<Inputs> {
        let mut files = self.files.iter().filter(|(name, _)| wanted(name));
        files.try_fold(Inputs::new(), |inputs, (name, path)| Ok(inputs.with(name, file_digest(path)?)))
    }
}

/// A test program, as cargo reports it.
#[derive(Deserialize)]
struct Built {
    target: BuiltTarget,
    executable: PathBuf,
}

#[derive(Deserialize)]
struct BuiltTarget {
    name: String,
    kind: Vec<String>,
}

fn build_tests(ctx: &Ctx, tools: &Toolchain, package: &str, tests: &[&str]) -> Result<Vec<Built>> {
    if tests.is_empty() {
        return Ok(Vec::new());
    }
    let mut cargo = guest::cross_cargo(ctx, tools, "test", Linkage::Dynamic)?;
    cargo.args(["--no-run", "--message-format=json-render-diagnostics", "-p", package]);
    cargo.args(tests.iter().flat_map(|test| ["--test", test]));
    let log = Log::create(ctx.cache.logs().join(format!("{package}-tests.log")))?;
    ctx.ui.line("ppc64le", &format!("tests of {package}"));
    let output = log.output(&mut cargo)?;
    let text = String::from_utf8_lossy(&output);
    // Lines of other kinds name no executable; cargo builds the package's programs besides.
    let built = text.lines().filter_map(|line| serde_json::from_str(line).ok());
    let built: Vec<Built> = built.filter(|built: &Built| built.target.kind.iter().any(|kind| kind == "test")).collect();
    let complete = built.len() == tests.len();
    ensure!(complete, "cargo built {} of {} tests of {package}; its log: {}", built.len(), tests.len(), log.path().display());
    Ok(built)
}

/// A program without its symbols: the lab reads it through an emulated disk.
fn strip(ctx: &Ctx, host: &Host, program: &Path) -> Result<PathBuf> {
    let name = program.file_name().context("a program has a name")?.to_string_lossy().into_owned();
    let short = name.rsplit_once('-').filter(|(_, hash)| hash.len() == 16).map_or(name.as_str(), |(short, _)| short);
    let dir = ctx.step(&format!("lab-{short}"), &Inputs::new().with_file(program)?, None, |step| {
        let strip = format!("{}strip", Toolchain::cross_compile(host));
        let target = step.stage.join(short);
        step.log.run(Command::new(strip).arg("-s").arg("-o").arg(&target).arg(program), None)?;
        fs::set_permissions(&target, fs::Permissions::from_mode(0o755)).context("make it executable")
    })?;
    Ok(dir.join(short))
}

/// The smallest guest: says that it runs, and powers off.
fn userland(ctx: &Ctx, host: &Host) -> Result<PathBuf> {
    stock::one_program(ctx, "userland", &guest::c_program(ctx, host, "userland", guest::SMALL)?)
}
