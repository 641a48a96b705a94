//! The one door for every chore: `cargo xtask …`.

#![forbid(unsafe_code)]

mod apt;
mod cache;
mod ctx;
mod engines;
mod guest;
mod images;
mod initramfs;
mod kernel;
mod layer;
mod oci;
mod run;
mod setup;
mod toolchain;
mod ui;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Cli {
    #[arg(long, global = true)]
    offline: bool,
    #[command(subcommand)]
    command: Chore,
}

#[derive(Subcommand)]
enum Chore {
    Setup,
    Kernel,
    Images,
    Build,
    Engines,
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let ctx = ctx::Ctx::new(cli.offline)?;
    let host = setup::Host::detect()?;
    let _lock = ctx.cache.lock(|| eprintln!("waiting"))?;
    match cli.command {
        Chore::Setup => {
            setup::ensure_packages(&ctx, &host)?;
            toolchain::prepare(&ctx, &host)?;
        }
        Chore::Kernel => {
            let kernel = kernel::prepare(&ctx, &host)?;
            println!("{}", kernel.vmlinux.display());
        }
        Chore::Images => {
            for (_, path) in images::prepare(&ctx, &host)? {
                println!("{}", path.display());
            }
        }
        Chore::Engines => {
            let engines = engines::prepare(&ctx, &host)?;
            println!("{} {}", engines.containerd_bin.display(), engines.runc_bin.display());
        }
        Chore::Build => {
            let tools = toolchain::prepare(&ctx, &host)?;
            let agent = guest::agent(&ctx, &host, &tools)?;
            println!("{}", guest::initramfs(&ctx, &agent)?.display());
        }
    }
    Ok(())
}
