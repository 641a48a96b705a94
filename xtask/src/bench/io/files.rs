//! The share: an archive's worth of small files made and removed, a large file read and written in order and at random, buffered and direct.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use nix::sys::resource::{Resource, getrlimit};

use super::bridge::Function;
use super::watched::{self, Helper, Piece};
use super::{Beside, Figure, Goal, Lab, MEMORY_BYTES, Runs};
use crate::bench::{machine, peer};
use crate::guest;

/// Pieces of work in their order, and the least ratio.
const PIECES: [(&str, f64); 10] = [
    ("untar", 0.5),
    ("rm", 0.5),
    ("seqwrite", 0.7),
    ("seqread", 0.7),
    ("randwrite", 0.7),
    ("randread", 0.7),
    ("seqwrite_direct", 0.7),
    ("seqread_direct", 0.7),
    ("randwrite_direct", 0.7),
    ("randread_direct", 0.7),
];
const FILES: u32 = 20_000;
const MEBIBYTES: u32 = 256;
/// A file that the guest remembers is a descriptor of whoever serves it. Where fewer may be open than this, both guests are made to forget
/// all of them now and then, and the host does the same.
const DESCRIPTORS: u64 = 32 << 10;

/// Virtio device type of a file system (virtio 1.2 §5.11).
const KIND: u32 = 26;
/// Entries of QEMU's request queue: as many as ours has.
const QUEUE_SIZE: u32 = 1024;

/// Runs all pieces in our machine, in QEMU and on the host, in turn.
pub fn measure(lab: &Lab, work: &Path, far_side: &Path) -> Result<Vec<Figure>> {
    fs::create_dir(work)?;
    let (program, native) = {
        let _lock = lab.ctx.lock()?;
        (guest::c_program(lab.ctx, &lab.host, "files", &["-O2"])?, guest::native_c_program(lab.ctx, "files", &["-O2"])?)
    };
    let initramfs = machine::initramfs(work, &program)?;
    let mut works: Vec<String> = vec![format!("files:{FILES}"), format!("mebibytes:{MEBIBYTES}")];
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if most < DESCRIPTORS {
        works.push(format!("forget:{}", most / 4));
    }
    works.extend(PIECES.map(|(name, _)| name.to_owned()));
    let cmdline = format!("console=hvc0 quiet -- {}", works.join(" "));
    let (mut ours, mut theirs, mut host) = (Runs::default(), Runs::default(), Runs::default());
    for _ in 0..lab.runs {
        ours.add(on_empty(work, |share| {
            let mut machine = super::ours(lab, &initramfs, &cmdline)?;
            machine.arg("--share").arg(share);
            watched::run(&mut machine, &[])
        })?);
        theirs.add(on_empty(work, |share| {
            let socket = work.join("fs.sock");
            let mut server = Helper::start(Command::new(far_side).arg("files").arg(&socket).arg(share))?;
            server.has_made(&socket)?;
            let function = Function {
                device: format!("vhost-user-fs-pci,chardev=fs,tag=paperboat,queue-size={QUEUE_SIZE}"),
                backend: ["-chardev".into(), format!("socket,id=fs,path={}", socket.display())].into(),
                kind: KIND,
                class: 0x01_80_00,
                vectors: 3,
            };
            let mut qemu =
                peer::command_with(work, lab.path("PAPERBOAT_KERNEL")?, &initramfs, &cmdline, MEMORY_BYTES, &[function])?;
            watched::run(&mut qemu, &[&server])
        })?);
        host.add(on_empty(work, |share| watched::run(Command::new(&native).arg(share).args(&works), &[]))?);
    }
    same_content(&ours, &theirs)?;
    same_content(&ours, &host)?;

    let beside = Beside { ours: &ours, theirs: &theirs, peer: "qemu tcg", runs: lab.runs };
    let mut figures = Vec::new();
    for (piece, least) in PIECES {
        let (unit, scale) = if piece.starts_with("seq") { ("MiB/s", 1_048_576.0) } else { ("1/s", 1.0) };
        let figure = format!("io.fs.{piece}");
        figures.extend(beside.figures(&figure, piece, unit, scale, least)?);
        let rate = |piece: &Piece| piece.amount / piece.seconds / scale;
        let ratio = ours.middle(piece, rate)? / host.middle(piece, rate)?;
        figures.push(Figure {
            figure: figure + ".host_ratio",
            value: ratio,
            unit: "×",
            peer: None,
            runs: lab.runs,
            goal: Goal::None,
        });
    }
    Ok(figures)
}

/// Calls `act` with an empty directory to share.
fn on_empty(work: &Path, act: impl FnOnce(&Path) -> Result<Vec<Piece>>) -> Result<Vec<Piece>> {
    let share = work.join("share");
    crate::cache::remove_tree(&share)?;
    fs::create_dir(&share).with_context(|| format!("create {}", share.display()))?;
    act(&share)
}

/// Every piece read the same bytes on both sides.
fn same_content(ours: &Runs, theirs: &Runs) -> Result<()> {
    for (name, pieces) in &ours.0 {
        let read = |pieces: &[Piece]| pieces.iter().map(|piece| (piece.said.clone(), piece.amount.to_bits())).collect::<Vec<_>>();
        let other = theirs.0.get(name).map(Vec::as_slice).unwrap_or_default();
        ensure!(read(pieces) == read(other), "{name} differs: {:?}, {:?}", read(pieces), read(other));
    }
    Ok(())
}
