//! `containerd-shim-paperboat-v1`: see the library's first page.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use paperboat_shim::args::{Action, Args};
use paperboat_shim::{bootstrap, serve};
use protobuf::Message;

/// Requests, streams and events of one pod: two threads let a blocking mount pass unnoticed.
const WORKER_THREADS: usize = 2;

type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    match Args::parse(std::env::args().skip(1)).map_err(Failure::from).and_then(|args| run(&args)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // containerd passes this on to its client.
            eprintln!("paperboat: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<(), Failure> {
    match args.action {
        Action::Start => bootstrap::print(bootstrap::start(args)?.as_bytes())?,
        Action::Delete => bootstrap::print(&bootstrap::delete(args)?.write_to_bytes()?)?,
        Action::Info => bootstrap::print(&bootstrap::info().write_to_bytes()?)?,
        Action::Serve => {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(WORKER_THREADS).enable_all().build()?;
            runtime.block_on(serve::serve(args))?;
            // A blocked task must not hold the process.
            runtime.shutdown_background();
        }
        Action::Version => println!("{} {}", paperboat_shim::RUNTIME_NAME, env!("CARGO_PKG_VERSION")),
    }
    Ok(())
}
