//! The guest kernel: Debian's source, our configuration, the same bytes every time.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::apt::{AptRoot, Suite};
use crate::cache::{Inputs, digest, file_digest, remove_tree};
use crate::ctx::{Ctx, Step};
use crate::run::capture;
use crate::setup::Host;
use crate::toolchain::Toolchain;

/// The release whose kernel the guest runs.
const RELEASE: &str = "trixie";
/// Debian's package of the kernel source.
const SOURCE: &str = "linux-source-6.12";
/// In this order: a later fragment may not contradict an earlier one, the check would fail.
const FRAGMENTS: &[&str] = &["base", "container", "devices", "boot"];
/// How many lines a build prints.
const USUAL_LINES: u64 = 3000;
/// The largest kernel that is taken, stripped.
const SIZE_LIMIT_BYTES: u64 = 12_000_000;
/// Raised when the recipe changes.
const RECIPE: &str = "1";

/// The kernel's products.
pub struct Kernel {
    /// Stripped ELF image, linked for physical 0.
    pub vmlinux: PathBuf,
    /// Addresses of its symbols.
    pub system_map: PathBuf,
    /// The finished configuration.
    pub config: PathBuf,
}

/// Builds or finds the kernel.
pub fn prepare(ctx: &Ctx, host: &Host) -> Result<Kernel> {
    let recipe = Recipe::read(ctx, host)?;
    let dir = ctx.step("kernel", &recipe.inputs, Some(USUAL_LINES), |step| recipe.build(step))?;
    let kernel = Kernel {
        vmlinux: ctx.cache.publish("vmlinux", &dir.join("vmlinux"))?,
        system_map: ctx.cache.publish("System.map", &dir.join("System.map"))?,
        config: ctx.cache.publish("kernel.config", &dir.join("config"))?,
    };
    Ok(kernel)
}

/// Builds the kernel a second time, elsewhere, and compares the bytes with the first.
pub fn check_reproducible(ctx: &Ctx, host: &Host, first: &Kernel) -> Result<()> {
    let recipe = Recipe::read(ctx, host)?;
    let inputs = Recipe::read(ctx, host)?.inputs.with("build", "second");
    let key = inputs.key();
    let dir = ctx.step("kernel-again", &inputs, Some(USUAL_LINES), |step| recipe.build(step))?;
    let (one, two) = (file_digest(&first.vmlinux)?, file_digest(&dir.join("vmlinux"))?);
    ensure!(one == two, "two builds differ: {one} and {two} ({key})");
    ctx.ui.line("kernel", &format!("built twice, same bytes: {one}"));
    Ok(())
}

struct Recipe<'a> {
    apt: AptRoot<'a>,
    source: crate::apt::Deb,
    options: Vec<Asked>,
    merged: String,
    cross: &'static str,
    inputs: Inputs,
}

impl<'a> Recipe<'a> {
    fn read(ctx: &'a Ctx, host: &Host) -> Result<Self> {
        let apt = AptRoot::open(ctx, Suite { release: RELEASE.into(), arch: host.arch.clone(), security: true })?;
        let source = apt.packages(&[SOURCE])?.remove(0);
        let cross = Toolchain::cross_compile(host);
        let compiler = capture(Command::new(format!("{cross}gcc")).arg("--version"))?;
        let linker = capture(Command::new(format!("{cross}ld")).arg("--version"))?;
        let tools = format!("{}\n{}", compiler.lines().next().unwrap_or(""), linker.lines().next().unwrap_or(""));
        let mut inputs =
            Inputs::new().with("recipe", RECIPE).with(&source.file, &source.sha256).with("tools", digest(tools.as_bytes()));
        let mut merged = String::new();
        for name in FRAGMENTS {
            let path = ctx.root.join("kernel-configs").join(format!("{name}.config"));
            let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
            // Reasons may be reworded without a build.
            let effective: String = text.lines().filter_map(Asked::parse).map(|asked| asked.line() + "\n").collect();
            inputs = inputs.with(format!("{name}.config"), digest(effective.as_bytes()));
            merged += &effective;
        }
        let options = merged.lines().filter_map(Asked::parse).collect();
        Ok(Self { apt, source, options, merged, cross, inputs })
    }

    fn build(&self, step: &mut Step) -> Result<()> {
        let work = step.stage.join("work");
        fs::create_dir_all(&work)?;
        self.apt.fetch(std::slice::from_ref(&self.source))?;
        self.apt.unpack(std::slice::from_ref(&self.source), &work)?;
        let archive = work.join(format!("usr/src/{SOURCE}.tar.xz"));
        step.log.run(Command::new("tar").arg("-xJf").arg(&archive).arg("-C").arg(&work), None)?;
        let tree = work.join(SOURCE);
        let asked = work.join("asked.config");
        fs::write(&asked, &self.merged)?;
        step.log.run(self.make(&tree).arg("alldefconfig").env("KCONFIG_ALLCONFIG", &asked), None)?;
        let config = tree.join(".config");
        check_config(&self.options, &fs::read_to_string(&config)?)?;

        let jobs = std::thread::available_parallelism().map_or(1, |n| n.get());
        step.log.run(self.make(&tree).arg(format!("-j{jobs}")).arg("vmlinux"), Some(&mut step.progress))?;
        let product = step.stage.join("vmlinux");
        let strip = format!("{}strip", self.cross);
        step.log.run(Command::new(strip).arg("-s").arg("-o").arg(&product).arg(tree.join("vmlinux")), None)?;
        let bytes = fs::metadata(&product)?.len();
        ensure!(bytes <= SIZE_LIMIT_BYTES, "the kernel has {bytes} bytes, the limit is {SIZE_LIMIT_BYTES}");
        fs::copy(tree.join("System.map"), step.stage.join("System.map"))?;
        fs::copy(&config, step.stage.join("config"))?;
        remove_tree(&work)
    }

    fn make(&self, tree: &Path) -> Command {
        let mut make = Command::new("make");
        make.current_dir(tree)
            .arg("ARCH=powerpc")
            .arg(format!("CROSS_COMPILE={}", self.cross))
            // Nothing of the building machine or the hour may get into the image.
            .env("KBUILD_BUILD_TIMESTAMP", "Thu Jan  1 00:00:00 UTC 1970")
            .env("KBUILD_BUILD_USER", "paperboat")
            .env("KBUILD_BUILD_HOST", "paperboat")
            .env("KBUILD_BUILD_VERSION", "1")
            .env("LC_ALL", "C")
            .env_remove("MAKEFLAGS");
        make
    }
}

/// One option of a fragment.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    name: String,
    /// `None`: it must not be set.
    value: Option<String>,
}

impl Asked {
    /// `CONFIG_X=y` or `# CONFIG_X is not set`; anything else is a comment.
    fn parse(line: &str) -> Option<Self> {
        let line = line.trim();
        if let Some(rest) = line.strip_prefix("# CONFIG_") {
            let name = rest.strip_suffix(" is not set")?;
            return Some(Self { name: format!("CONFIG_{name}"), value: None });
        }
        let (name, value) = line.split_once('=')?;
        name.starts_with("CONFIG_").then(|| Self { name: name.to_owned(), value: Some(value.to_owned()) })
    }

    fn line(&self) -> String {
        match &self.value {
            Some(value) => format!("{}={value}", self.name),
            None => format!("# {} is not set", self.name),
        }
    }
}

/// Every option asked for must be in the finished configuration as asked.
fn check_config(asked: &[Asked], finished: &str) -> Result<()> {
    let finished: std::collections::BTreeMap<String, String> =
        finished.lines().filter_map(Asked::parse).filter_map(|option| Some((option.name, option.value?))).collect();
    let wrong: Vec<String> = asked
        .iter()
        .filter(|option| finished.get(&option.name) != option.value.as_ref())
        .map(|option| {
            let got = finished.get(&option.name).map_or("not set", String::as_str);
            format!("{} was asked for, the result has: {got}", option.line())
        })
        .collect();
    if !wrong.is_empty() {
        bail!("the kernel's configuration is not what kernel-configs/ asks for:\n  {}", wrong.join("\n  "));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(text: &str) -> Vec<Asked> {
        text.lines().filter_map(Asked::parse).collect()
    }

    #[test]
    fn dropped_options_are_named() {
        let asked = asked("# a reason\nCONFIG_A=y\nCONFIG_N=64\n# CONFIG_B is not set\n# CONFIG_C is not set\n");
        check_config(&asked, "CONFIG_A=y\nCONFIG_N=64\n# CONFIG_B is not set\n").unwrap();
        let error = check_config(&asked, "CONFIG_N=32\nCONFIG_B=y\n").unwrap_err().to_string();
        assert!(error.contains("CONFIG_A=y was asked for, the result has: not set"), "{error}");
        assert!(error.contains("CONFIG_N=64 was asked for, the result has: 32"), "{error}");
        assert!(error.contains("CONFIG_B is not set was asked for, the result has: y"), "{error}");
        assert!(!error.contains("CONFIG_C"), "{error}");
    }

    #[test]
    fn no_option_is_asked_for_twice() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../kernel-configs");
        let mut seen = std::collections::BTreeSet::new();
        for name in FRAGMENTS {
            let text = fs::read_to_string(dir.join(format!("{name}.config"))).unwrap();
            for option in asked(&text) {
                assert!(seen.insert(option.name.clone()), "{} is asked for twice", option.name);
            }
        }
        assert!(seen.len() > 150);
    }
}
