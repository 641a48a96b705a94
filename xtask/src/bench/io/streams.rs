//! vsock and the network: bytes each way, and round trips of 64 bytes. The peer of both is QEMU's network on a tap like ours: vsock needs help from
//! outside there. The kernel's vhost-vsock is on few machines; with vhost-device-vsock 0.3.0 over vhost-user a guest with pages of 64 KiB
//! connects, and its first large write never returns.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::bridge::Function;
use super::watched::{self, Helper, Piece};
use super::{Beside, Figure, Lab, MEMORY_BYTES, Runs};
use crate::bench::{machine, peer};
use crate::guest;
use crate::run::capture;

/// Where the far side listens: `PORT` of `images/streams.c`.
const PORT: u32 = 5077;
/// The far side's address, and the tap it is behind.
const ADDRESS: &str = "10.77.0.1";
const TAP: &str = "tap0";
const MEBIBYTES: u32 = 256;
const TRIPS: u32 = 10_000;

/// Virtio device type of a network (virtio 1.2 §5).
const NET: u32 = 1;

/// Runs both in our machine and the network in QEMU, in turn.
pub fn measure(lab: &Lab, work: &Path, far_side: &Path) -> Result<Vec<Figure>> {
    fs::create_dir(work)?;
    let program = {
        let _lock = lab.ctx.lock()?;
        guest::c_program(lab.ctx, &lab.host, "streams", &["-O2"])?
    };
    let setup = Setup { lab, work, far_side, initramfs: machine::initramfs(work, &program)? };
    let network = Network::new()?;
    let (mut vsock, mut net, mut theirs) = (Runs::default(), Runs::default(), Runs::default());
    for _ in 0..lab.runs {
        vsock.add(setup.our_vsock()?);
        net.add(setup.our_net(&network)?);
        theirs.add(setup.their_net(&network)?);
    }
    let theirs = both_ways(theirs);
    let mut figures = Vec::new();
    for (name, ours) in [("vsock", both_ways(vsock)), ("net", both_ways(net))] {
        let beside = Beside { ours: &ours, theirs: &theirs, peer: "qemu tcg, network", runs: lab.runs };
        figures.extend(beside.figures(&format!("io.{name}.throughput"), "throughput", "MiB/s", 1_048_576.0, 0.7)?);
        figures.extend(beside.figures(&format!("io.{name}.latency"), "latency", "round trips/s", 1.0, 0.7)?);
    }
    Ok(figures)
}

/// Adds what sending and receiving took together.
fn both_ways(mut runs: Runs) -> Runs {
    let pieces = |runs: &Runs, name: &str| runs.0.get(name).cloned().unwrap_or_default();
    let both = pieces(&runs, "send").into_iter().zip(pieces(&runs, "receive")).map(|(send, receive)| Piece {
        name: "throughput".into(),
        amount: send.amount + receive.amount,
        said: String::new(),
        seconds: send.seconds + receive.seconds,
        cpu_seconds: send.cpu_seconds + receive.cpu_seconds,
    });
    let both: Vec<Piece> = both.collect();
    runs.add(both);
    runs
}

/// What all guests share.
struct Setup<'a> {
    lab: &'a Lab<'a>,
    work: &'a Path,
    far_side: &'a Path,
    initramfs: PathBuf,
}

impl Setup<'_> {
    fn cmdline(&self, over: &str) -> String {
        format!("console=hvc0 quiet -- mebibytes:{MEBIBYTES} trips:{TRIPS} {over}")
    }

    /// A path that does not exist yet.
    fn fresh(&self, name: &str) -> PathBuf {
        let path = self.work.join(name);
        let _ = fs::remove_file(&path);
        path
    }

    fn our_vsock(&self) -> Result<Vec<Piece>> {
        let (socket, far) = (self.fresh("vsock"), self.fresh(&format!("vsock_{PORT}")));
        let _far_side = self.far_side_at(&far)?;
        let mut machine = super::ours(self.lab, &self.initramfs, &self.cmdline("vsock"))?;
        machine.arg("--vsock").arg(&socket);
        watched::run(&mut machine, &[])
    }

    /// Both machines run in the network's namespace, where the far side is.
    fn our_net(&self, network: &Network) -> Result<Vec<Piece>> {
        let _far_side = self.far_side_in(network)?;
        let mut machine = super::ours(self.lab, &self.initramfs, &self.cmdline("net"))?;
        machine.args(["--net", &format!("tap={TAP}")]);
        watched::run(&mut network.inside(&machine), &[])
    }

    fn their_net(&self, network: &Network) -> Result<Vec<Piece>> {
        let _far_side = self.far_side_in(network)?;
        let function = Function {
            device: "virtio-net-pci,netdev=net,disable-legacy=on,romfile=".into(),
            backend: ["-netdev".into(), format!("tap,id=net,ifname={TAP},script=no,downscript=no,vhost=off")].into(),
            kind: NET,
            class: 0x02_00_00,
            vectors: 3,
        };
        watched::run(&mut network.inside(&self.qemu("net", function)?), &[])
    }

    fn qemu(&self, over: &str, function: Function) -> Result<Command> {
        let kernel = self.lab.path("PAPERBOAT_KERNEL")?;
        peer::command_with(self.work, kernel, &self.initramfs, &self.cmdline(over), MEMORY_BYTES, &[function])
    }

    fn far_side_at(&self, path: &Path) -> Result<Helper> {
        let mut helper = Helper::start(Command::new(self.far_side).args(["streams", "unix"]).arg(path))?;
        helper.has_made(path)?;
        Ok(helper)
    }

    fn far_side_in(&self, network: &Network) -> Result<Helper> {
        let mut command = Command::new(self.far_side);
        Helper::start(&mut network.inside(command.args(["streams", "tcp", &format!("{ADDRESS}:{PORT}")])))
    }
}

/// A namespace with a tap, and the host at its end.
struct Network {
    name: String,
}

impl Network {
    fn new() -> Result<Self> {
        let network = Self { name: format!("pbbench{}", std::process::id()) };
        ip(&["netns", "add", &network.name])?;
        let mut tap = Command::new("ip");
        tap.args(["tuntap", "add", "dev", TAP, "mode", "tap", "vnet_hdr"]);
        capture(&mut network.inside(&tap)).context("make a tap")?;
        ip(&["-n", &network.name, "address", "add", &format!("{ADDRESS}/24"), "dev", TAP])?;
        ip(&["-n", &network.name, "link", "set", TAP, "up"])?;
        Ok(network)
    }

    /// The same command in the namespace. `ip` becomes that program, so that its process is the one that is watched.
    fn inside(&self, command: &Command) -> Command {
        let mut inside = Command::new("ip");
        inside.args(["netns", "exec", &self.name]).arg(command.get_program()).args(command.get_args());
        inside
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = ip(&["netns", "del", &self.name]);
    }
}

fn ip(arguments: &[&str]) -> Result<String> {
    capture(Command::new("ip").args(arguments))
}
