//! Drives the agent of a machine that was started by hand: `drive_agent VSOCK ID` creates and starts the container whose files are
//! at containers/ID in the machine's share, and tells its exit status. For looking at guest and machine without containerd.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use paperboat_protocol::agent::Stdio;
use paperboat_shim::agent::Agent;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(vsock), Some(id)) = (arguments.next(), arguments.next()) else {
        return Err("usage: drive_agent VSOCK ID".into());
    };
    let agent = loop {
        match Agent::connect(Path::new(&vsock), &id, &HashMap::new()).await {
            Ok(agent) => break agent,
            Err(error) => eprintln!("waiting: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    println!("kernel {} boot {}", agent.kernel_release, agent.boot_id);
    let pid = agent.create(&id, &PathBuf::from("containers").join(&id), &[], Stdio::default()).await?;
    println!("created, pid {pid}");
    agent.start(&id, "").await?;
    println!("started");
    println!("ended: {:?}", agent.wait(&id, "").await?);
    agent.shutdown(Duration::from_secs(5)).await;
    Ok(())
}
