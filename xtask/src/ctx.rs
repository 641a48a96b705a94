//! What every chore is given: the tree, the cache, the screen; and how a cached step runs.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};

use crate::cache::{Cache, Found, Inputs};
use crate::run::Log;
use crate::ui::{Progress, Ui, duration, size};

/// How many products of one step are kept: the newest, and the one before for switching branches.
const KEPT_PRODUCTS: usize = 2;

/// What every chore is given.
pub struct Ctx {
    /// Top of the source tree.
    pub root: PathBuf,
    /// Finished products.
    pub cache: Cache,
    /// The screen.
    pub ui: Ui,
    /// Use only what is cached.
    pub offline: bool,
}

/// A step that is running.
pub struct Step {
    /// Where its products go.
    pub stage: PathBuf,
    /// Where its commands' output goes.
    pub log: Log,
    /// Its progress.
    pub progress: Progress,
}

impl Ctx {
    /// Opens the cache; the tree is the one that cargo runs this program in. Where it was built is not asked: clones that share a target
    /// directory run each other's program.
    pub fn new(offline: bool) -> Result<Self> {
        let package = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
        let root = Path::new(&package).parent().context("xtask has a parent directory")?;
        Ok(Self { root: root.to_owned(), cache: Cache::open()?, ui: Ui::new(), offline })
    }

    /// Takes the cache for this process, saying so when another one has to be waited for. What interrupted steps
    /// have left is removed: nobody else is running one.
    pub fn lock(&self) -> Result<nix::fcntl::Flock<std::fs::File>> {
        let lock = self.cache.lock(|| self.ui.line("cache", "waiting for another cargo xtask to finish"))?;
        self.cache.remove_stages()?;
        Ok(lock)
    }

    /// Runs the step `name` unless its product for these inputs is there. `ticks` is how many lines its
    /// commands usually print. Returns the product's directory.
    pub fn step(
        &self,
        name: &str,
        inputs: &Inputs,
        ticks: Option<u64>,
        build: impl FnOnce(&mut Step) -> Result<()>,
    ) -> Result<PathBuf> {
        let key = inputs.key();
        match self.cache.find(name, &key) {
            Found::Whole(dir) => {
                self.ui.line(name, &format!("reused {} ({})", &key[..8], inputs.summary()));
                return Ok(dir);
            }
            Found::Damaged(why) => self.ui.line(name, &format!("the cached product is damaged ({why}): building it again")),
            Found::Missing => {}
        }
        self.ui.line(name, &format!("building {} from {}", &key[..8], inputs.summary()));
        let started = Instant::now();
        let stage = self.cache.stage(name, &key)?;
        let log = Log::create(self.cache.logs().join(format!("{name}.log")))?;
        let mut step = Step { stage: stage.clone(), log, progress: self.ui.progress(name, ticks) };
        let built = build(&mut step).and_then(|()| self.cache.finish(&stage, name, &key, KEPT_PRODUCTS));
        drop(step);
        match built {
            Ok(dir) => {
                let bytes: u64 = std::fs::read_dir(&dir)?
                    .flatten()
                    .filter_map(|entry| entry.metadata().ok())
                    .filter(|meta| meta.is_file())
                    .map(|meta| meta.len())
                    .sum();
                self.ui.line(name, &format!("done in {} ({})", duration(started.elapsed()), size(bytes)));
                Ok(dir)
            }
            Err(error) => {
                // Nothing half-written stays; the log does.
                let _ = crate::cache::remove_tree(&stage);
                Err(error).with_context(|| format!("step {name} failed"))
            }
        }
    }
}
