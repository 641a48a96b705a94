//! The device against a guest kernel played by the test, on a real directory.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tempfile::TempDir;
use virtiofsd::fuse::{self, FsOptions, Opcode};
use vm_memory::ByteValued;

use super::*;
use crate::virtio::testkit::{Driver, Random, wait_for};

const PRIORITY: usize = 0;
const REQUEST: usize = 1;
/// Room for any answer a test expects.
const ROOM: usize = 128 << 10;

/// powerpc's numbers, as its guests send them.
mod ppc {
    pub(super) const O_RDONLY: u32 = 0;
    pub(super) const O_WRONLY: u32 = 1;
    pub(super) const O_RDWR: u32 = 2;
    pub(super) const O_EXCL: u32 = 0o200;
    pub(super) const O_TRUNC: u32 = 0o1000;
    pub(super) const O_APPEND: u32 = 0o2000;
    pub(super) const O_DIRECTORY: u32 = 0o40000;
    pub(super) const O_LARGEFILE: u32 = 0o200000;
}

type Answered = Result<Vec<u8>, i32>;

struct Guest {
    driver: Driver,
    share: TempDir,
    unique: u64,
    uid: u32,
}

impl Guest {
    fn new() -> Self {
        Self::on(TempDir::new().unwrap())
    }

    fn on(share: TempDir) -> Self {
        let root = OwnedFd::from(fs::File::open(share.path()).unwrap());
        let driver = Driver::start(Box::new(FsDevice::new("pod", root, &ShareOptions::default(), Arc::default()).unwrap()));
        let mut guest = Self { driver, share, unique: 1, uid: 0 };
        guest.init();
        guest
    }

    fn path(&self, name: &str) -> PathBuf {
        self.share.path().join(name)
    }

    fn init(&mut self) -> fuse::InitOut {
        let offered = FsOptions::all().bits();
        let init = fuse::InitInCompat { major: 7, minor: 41, max_readahead: 0x2_0000, flags: offered as u32 };
        let extension = fuse::InitInExt { flags2: (offered >> 32) as u32, ..Default::default() };
        let answer = self.call(Opcode::Init, 0, &[init.as_slice(), extension.as_slice()]).unwrap();
        object(&answer)
    }

    fn header(&mut self, opcode: u32, inode: u64, body: usize) -> fuse::InHeader {
        self.unique += 2;
        fuse::InHeader {
            len: (size_of::<fuse::InHeader>() + body) as u32,
            opcode,
            unique: self.unique,
            nodeid: inode,
            uid: self.uid.into(),
            gid: self.uid.into(),
            pid: 1,
            ..Default::default()
        }
    }

    fn call(&mut self, operation: Opcode, inode: u64, parts: &[&[u8]]) -> Answered {
        self.call_raw(operation as u32, inode, parts, ROOM)
    }

    fn call_raw(&mut self, opcode: u32, inode: u64, parts: &[&[u8]], room: usize) -> Answered {
        let header = self.header(opcode, inode, parts.iter().map(|part| part.len()).sum());
        let mut all = vec![header.as_slice()];
        all.extend_from_slice(parts);
        let answer = self.driver.request(REQUEST, &all, room);
        let out: fuse::OutHeader = object(&answer);
        assert_eq!((out.len as usize, out.unique), (answer.len(), header.unique));
        if out.error == 0 { Ok(answer[size_of::<fuse::OutHeader>()..].to_vec()) } else { Err(-out.error) }
    }

    fn lookup(&mut self, parent: u64, name: &str) -> Result<fuse::EntryOut, i32> {
        self.call(Opcode::Lookup, parent, &[&string(name)]).map(|answer| object(&answer))
    }

    /// Looks a path up component by component from the root.
    fn walk(&mut self, path: &str) -> fuse::EntryOut {
        let mut entry = fuse::EntryOut { nodeid: 1, ..Default::default() };
        for name in path.split('/') {
            entry = self.lookup(entry.nodeid, name).unwrap();
        }
        entry
    }

    fn open(&mut self, inode: u64, flags: u32) -> Result<u64, i32> {
        let open = fuse::OpenIn { flags: flags | ppc::O_LARGEFILE, open_flags: 0 };
        self.call(Opcode::Open, inode, &[open.as_slice()]).map(|answer| object::<fuse::OpenOut>(&answer).fh)
    }

    fn create(&mut self, parent: u64, name: &str, flags: u32, mode: u32) -> Result<(u64, u64), i32> {
        let create = fuse::CreateIn { flags: flags | 0o100 | ppc::O_LARGEFILE, mode: libc::S_IFREG | mode, ..Default::default() };
        let answer = self.call(Opcode::Create, parent, &[create.as_slice(), &string(name)])?;
        let (entry, open) = answer.split_at(size_of::<fuse::EntryOut>());
        Ok((object::<fuse::EntryOut>(entry).nodeid, object::<fuse::OpenOut>(open).fh))
    }

    fn read(&mut self, inode: u64, fh: u64, offset: u64, size: u32) -> Answered {
        let read = fuse::ReadIn { fh, offset, size, ..Default::default() };
        self.call(Opcode::Read, inode, &[read.as_slice()])
    }

    fn write(&mut self, inode: u64, fh: u64, offset: u64, data: &[u8], flags: u32) -> Result<u32, i32> {
        let write = fuse::WriteIn { fh, offset, size: data.len() as u32, flags, ..Default::default() };
        self.call(Opcode::Write, inode, &[write.as_slice(), data]).map(|answer| object::<fuse::WriteOut>(&answer).size)
    }

    fn read_file(&mut self, path: &str) -> Vec<u8> {
        let inode = self.walk(path).nodeid;
        let fh = self.open(inode, ppc::O_RDONLY).unwrap();
        let data = self.read(inode, fh, 0, 100_000).unwrap();
        self.release(inode, fh);
        data
    }

    fn release(&mut self, inode: u64, fh: u64) {
        let release = fuse::ReleaseIn { fh, ..Default::default() };
        self.call(Opcode::Release, inode, &[release.as_slice()]).unwrap();
    }

    fn forget(&mut self, inode: u64, count: u64) {
        let forget = fuse::ForgetIn { nlookup: count };
        let header = self.header(Opcode::Forget as u32, inode, size_of::<fuse::ForgetIn>());
        assert_eq!(self.driver.request(PRIORITY, &[header.as_slice(), forget.as_slice()], 0), []);
    }

    /// Names in a directory with what READDIRPLUS says of each.
    fn list(&mut self, inode: u64) -> HashMap<String, fuse::EntryOut> {
        let open = fuse::OpenIn { flags: ppc::O_DIRECTORY | ppc::O_LARGEFILE, open_flags: 0 };
        let fh = object::<fuse::OpenOut>(&self.call(Opcode::Opendir, inode, &[open.as_slice()]).unwrap()).fh;
        let (mut names, mut offset) = (HashMap::new(), 0);
        loop {
            let read = fuse::ReadIn { fh, offset, size: 1024, ..Default::default() };
            let page = self.call(Opcode::Readdirplus, inode, &[read.as_slice()]).unwrap();
            if page.is_empty() {
                let release = fuse::ReleaseIn { fh, ..Default::default() };
                self.call(Opcode::Releasedir, inode, &[release.as_slice()]).unwrap();
                return names;
            }
            let mut rest = page.as_slice();
            while !rest.is_empty() {
                let (entry, tail) = rest.split_at(size_of::<fuse::EntryOut>());
                let dirent: fuse::Dirent = object(tail);
                let name = &tail[size_of::<fuse::Dirent>()..][..dirent.namelen as usize];
                names.insert(String::from_utf8(name.to_vec()).unwrap(), object(entry));
                offset = dirent.off;
                rest = &tail[(size_of::<fuse::Dirent>() + name.len()).next_multiple_of(8)..];
            }
        }
    }
}

fn object<T: ByteValued + Default>(bytes: &[u8]) -> T {
    let mut value = T::default();
    let length = size_of::<T>();
    value.as_mut_slice().copy_from_slice(&bytes[..length]);
    value
}

fn string(text: &str) -> Vec<u8> {
    [text.as_bytes(), &[0]].concat()
}

fn root_may_mount() -> bool {
    nix::unistd::geteuid().is_root() && unshare(CloneFlags::CLONE_NEWNS).is_ok() && {
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).is_ok()
    }
}

fn mount_tmpfs(at: &Path) {
    mount(Some("none"), at, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
}

#[test]
fn the_configuration_names_tag_and_queues() {
    let guest = Guest::new();
    let config = guest.driver.device_config(40);
    assert_eq!(&config[..4], b"pod\0");
    assert_eq!(&config[36..], 1u32.to_le_bytes());
    let root = || OwnedFd::from(fs::File::open("/").unwrap());
    assert!(matches!(FsDevice::new("", root(), &ShareOptions::default(), Arc::default()), Err(FsError::Tag { .. })));
    assert!(matches!(FsDevice::new(&"x".repeat(37), root(), &ShareOptions::default(), Arc::default()), Err(FsError::Tag { .. })));
}

#[test]
fn negotiation_gives_big_requests_and_submounts_but_no_locks() {
    let mut guest = Guest::new();
    let out = guest.init();
    assert_eq!((out.major, out.max_pages, out.max_write), (7, 256, 1 << 20));
    let options = FsOptions::from_bits_truncate(u64::from(out.flags) | u64::from(out.flags2) << 32);
    assert!(options.contains(FsOptions::SUBMOUNTS | FsOptions::MAX_PAGES | FsOptions::HANDLE_KILLPRIV_V2));
    assert!(!options.intersects(FsOptions::POSIX_LOCKS | FsOptions::FLOCK_LOCKS | FsOptions::CREATE_SUPP_GROUP));
    for (major, minor) in [(6, 9), (7, 8)] {
        let init = fuse::InitInCompat { major, minor, ..Default::default() };
        assert_eq!(guest.call(Opcode::Init, 0, &[init.as_slice()]), Err(libc::EPROTO));
    }
}

#[test]
fn files_are_created_written_read_and_removed() {
    let mut guest = Guest::new();
    let (inode, fh) = guest.create(1, "file", ppc::O_RDWR, 0o640).unwrap();
    assert_eq!(guest.write(inode, fh, 0, b"hello world", 0), Ok(11));
    assert_eq!(guest.read(inode, fh, 6, 100).unwrap(), b"world");
    guest.release(inode, fh);
    assert_eq!(fs::read(guest.path("file")).unwrap(), b"hello world");
    assert_eq!(fs::metadata(guest.path("file")).unwrap().permissions().mode() & 0o7777, 0o640);

    let fh = guest.open(inode, ppc::O_WRONLY | ppc::O_APPEND).unwrap();
    assert_eq!(guest.write(inode, fh, 0, b"!", ppc::O_APPEND), Ok(1));
    guest.release(inode, fh);
    assert_eq!(fs::read(guest.path("file")).unwrap(), b"hello world!");
    let fh = guest.open(inode, ppc::O_RDWR | ppc::O_TRUNC).unwrap();
    assert_eq!(fs::read(guest.path("file")).unwrap(), b"");

    // An unlinked file lives on while it is open.
    guest.call(Opcode::Unlink, 1, &[&string("file")]).unwrap();
    assert!(!guest.path("file").exists());
    assert_eq!(guest.write(inode, fh, 0, b"ghost", 0), Ok(5));
    assert_eq!(guest.read(inode, fh, 0, 100).unwrap(), b"ghost");
    guest.release(inode, fh);
    assert_eq!(guest.lookup(1, "file").unwrap_err(), libc::ENOENT);
    assert_eq!(guest.read(inode, fh, 0, 1), Err(libc::EBADF));
}

#[test]
fn a_large_transfer_over_many_buffers_is_whole() {
    let mut guest = Guest::new();
    let data: Vec<u8> = (0..1u32 << 20).map(|index| (index.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let (inode, fh) = guest.create(1, "big", ppc::O_RDWR, 0o600).unwrap();
    let write = fuse::WriteIn { fh, size: data.len() as u32, ..Default::default() };
    let mut parts = vec![write.as_slice()];
    parts.extend(data.chunks(65536));
    let answer = guest.call(Opcode::Write, inode, &parts).unwrap();
    assert_eq!(object::<fuse::WriteOut>(&answer).size, 1 << 20);
    assert_eq!(fs::read(guest.path("big")).unwrap(), data);
    let read = fuse::ReadIn { fh, offset: 1, size: 2 << 20, ..Default::default() };
    let answer = guest.call_raw(Opcode::Read as u32, inode, &[read.as_slice()], 2 << 20).unwrap();
    assert_eq!(answer, &data[1..]);
}

#[test]
fn short_work_is_done_by_the_vcpu_that_asks_and_nothing_is_left_over() {
    let mut guest = Guest::new();
    let before = guest.driver.statistic("direct");
    for _ in 0..10 {
        guest.lookup(1, "nothing").unwrap_err();
    }
    // The session's first request may still keep the queue's thread busy at the beginning.
    assert!(guest.driver.statistic("direct") > before);
    // More than a vCPU takes at once, with work for the disk among them: one notification serves them all.
    let (inode, fh) = guest.create(1, "file", ppc::O_RDWR, 0o600).unwrap();
    let mut heads = std::collections::HashSet::new();
    for index in 0..60 {
        let fsync = fuse::FsyncIn { fh, ..Default::default() };
        let header = if index % 7 == 3 {
            guest.header(Opcode::Fsync as u32, inode, size_of::<fuse::FsyncIn>())
        } else {
            guest.header(Opcode::Statfs as u32, 1, 0)
        };
        let body = if index % 7 == 3 { fsync.as_slice() } else { &[] };
        let request = guest.driver.place(&[header.as_slice(), body].concat());
        let answer = guest.driver.space(200);
        heads.insert(guest.driver.offer(REQUEST, &[request, answer]));
    }
    guest.driver.notify(REQUEST);
    while !heads.is_empty() {
        let (head, length) = guest.driver.wait_used(REQUEST);
        assert!(heads.remove(&head) && length >= 16);
    }
}

#[test]
fn powerpc_flags_mean_what_they_mean_there() {
    let mut guest = Guest::new();
    fs::write(guest.path("file"), "x").unwrap();
    let inode = guest.walk("file").nodeid;
    // O_LARGEFILE alone would be O_DIRECTORY on x86, and every open would fail.
    assert!(guest.open(inode, ppc::O_RDONLY).is_ok());
    assert!(guest.open(inode, ppc::O_RDONLY | 0o40).is_ok(), "FMODE_EXEC");
    assert_eq!(guest.open(inode, ppc::O_DIRECTORY), Err(libc::ENOTDIR));
    assert_eq!(guest.create(1, "file", ppc::O_RDWR | ppc::O_EXCL, 0o600), Err(libc::EEXIST));
    assert!(guest.create(1, "file", ppc::O_RDWR, 0o600).is_ok());
}

#[test]
fn no_name_leads_out_of_the_share() {
    let outside = TempDir::new().unwrap();
    fs::write(outside.path().join("secret"), "secret").unwrap();
    let share = outside.path().join("share");
    fs::create_dir(&share).unwrap();
    let root = OwnedFd::from(fs::File::open(&share).unwrap());
    let driver = Driver::start(Box::new(FsDevice::new("pod", root, &ShareOptions::default(), Arc::default()).unwrap()));
    let mut guest = Guest { driver, share: TempDir::new().unwrap(), unique: 1, uid: 0 };
    guest.init();
    fs::create_dir(share.join("dir")).unwrap();
    symlink("../secret", share.join("link")).unwrap();
    symlink("/", share.join("rootlink")).unwrap();

    for name in ["..", ".", "", "../secret", "dir/../../secret", "/etc/passwd", "rootlink/etc"] {
        assert_eq!(guest.lookup(1, name).unwrap_err(), libc::EINVAL, "{name}");
        let mkdir = fuse::MkdirIn { mode: 0o700, umask: 0 };
        assert_eq!(guest.call(Opcode::Mkdir, 1, &[mkdir.as_slice(), &string(name)]), Err(libc::EINVAL));
        let mknod = fuse::MknodIn { mode: libc::S_IFREG | 0o600, ..Default::default() };
        assert_eq!(guest.call(Opcode::Mknod, 1, &[mknod.as_slice(), &string(name)]), Err(libc::EINVAL));
        assert_eq!(guest.call(Opcode::Unlink, 1, &[&string(name)]), Err(libc::EINVAL));
        assert_eq!(guest.call(Opcode::Rmdir, 1, &[&string(name)]), Err(libc::EINVAL));
        assert_eq!(guest.call(Opcode::Symlink, 1, &[&string(name), &string("x")]), Err(libc::EINVAL));
        assert_eq!(guest.create(1, name, ppc::O_RDWR, 0o600), Err(libc::EINVAL));
        let rename = fuse::RenameIn { newdir: 1 };
        assert_eq!(guest.call(Opcode::Rename, 1, &[rename.as_slice(), &string("dir"), &string(name)]), Err(libc::EINVAL));
        assert_eq!(guest.call(Opcode::Rename, 1, &[rename.as_slice(), &string(name), &string("x")]), Err(libc::EINVAL));
        let link = fuse::LinkIn { oldnodeid: 1 };
        assert_eq!(guest.call(Opcode::Link, 1, &[link.as_slice(), &string(name)]), Err(libc::EINVAL));
    }
    // A symlink is an inode of its own; it is never followed here.
    for name in ["link", "rootlink"] {
        let inode = guest.lookup(1, name).unwrap();
        assert_eq!(inode.attr.mode & libc::S_IFMT, libc::S_IFLNK);
        assert!(guest.open(inode.nodeid, ppc::O_RDONLY).is_err());
        assert_eq!(guest.lookup(inode.nodeid, "secret").unwrap_err(), libc::ENOTDIR);
        assert_eq!(guest.create(1, name, ppc::O_RDWR, 0o600).unwrap_err(), libc::EBADF, "CREATE on a symlink");
    }
    let link = guest.walk("link").nodeid;
    let target = guest.call(Opcode::Readlink, link, &[]).unwrap();
    assert_eq!(target, b"../secret");
    assert_eq!(fs::read(outside.path().join("secret")).unwrap(), b"secret");
}

#[test]
fn directories_links_renames_and_attributes() {
    let mut guest = Guest::new();
    let mkdir = fuse::MkdirIn { mode: 0o1777, umask: 0 };
    let dir: fuse::EntryOut = object(&guest.call(Opcode::Mkdir, 1, &[mkdir.as_slice(), &string("dir")]).unwrap());
    assert_eq!(dir.attr.mode, libc::S_IFDIR | 0o1777);
    guest.create(dir.nodeid, "a", ppc::O_RDWR, 0o600).unwrap();
    let a = guest.walk("dir/a");

    let link = fuse::LinkIn { oldnodeid: a.nodeid };
    let linked: fuse::EntryOut = object(&guest.call(Opcode::Link, 1, &[link.as_slice(), &string("b")]).unwrap());
    assert_eq!((linked.nodeid, linked.attr.nlink), (a.nodeid, 2), "one inode, whatever its name");

    let rename = fuse::Rename2In { newdir: dir.nodeid, flags: libc::RENAME_NOREPLACE, ..Default::default() };
    assert_eq!(guest.call(Opcode::Rename2, 1, &[rename.as_slice(), &string("b"), &string("a")]), Err(libc::EEXIST));
    guest.call(Opcode::Rename2, 1, &[rename.as_slice(), &string("b"), &string("c")]).unwrap();
    assert!(guest.path("dir/c").exists() && !guest.path("b").exists());
    let wrong = fuse::Rename2In { flags: 0x80, ..rename };
    assert_eq!(guest.call(Opcode::Rename2, 1, &[wrong.as_slice(), &string("x"), &string("y")]), Err(libc::EINVAL));

    let change = fuse::SetattrIn {
        valid: 1 | 1 << 3 | 1 << 5,
        mode: 0o4711,
        size: 5,
        mtime: 1_000_000_000,
        mtimensec: 7,
        ..Default::default()
    };
    let attr: fuse::AttrOut = object(&guest.call(Opcode::Setattr, a.nodeid, &[change.as_slice()]).unwrap());
    assert_eq!((attr.attr.mode, attr.attr.size), (libc::S_IFREG | 0o4711, 5));
    assert_eq!((attr.attr.mtime, attr.attr.mtimensec), (1_000_000_000, 7));
    assert_eq!(fs::metadata(guest.path("dir/a")).unwrap().mtime(), 1_000_000_000);

    assert_eq!(guest.call(Opcode::Rmdir, 1, &[&string("dir")]), Err(libc::ENOTEMPTY));
    let mknod = fuse::MknodIn { mode: libc::S_IFIFO | 0o600, ..Default::default() };
    guest.call(Opcode::Mknod, 1, &[mknod.as_slice(), &string("pipe")]).unwrap();
    assert!(fs::metadata(guest.path("pipe")).unwrap().file_type().is_fifo());
    let pipe = guest.walk("pipe").nodeid;
    assert!(guest.open(pipe, ppc::O_RDONLY).is_err(), "the host's side never opens special files");
    let statfs: fuse::Kstatfs = object(&guest.call(Opcode::Statfs, 1, &[]).unwrap());
    assert!(statfs.bsize > 0 && statfs.blocks > 0);
}

#[test]
fn listing_a_directory_over_several_pages() {
    let mut guest = Guest::new();
    for index in 0..50 {
        fs::write(guest.path(&format!("file-{index}")), [index; 3]).unwrap();
    }
    let names = guest.list(1);
    assert_eq!(names.len(), 52);
    assert_eq!((names["."].nodeid, names[".."].nodeid), (0, 0));
    for index in 0..50 {
        let listed = names[&format!("file-{index}")];
        assert_eq!(listed.attr.size, 3);
        assert_eq!(listed.nodeid, guest.walk(&format!("file-{index}")).nodeid);
    }
    assert_eq!(guest.read_file("file-7"), [7, 7, 7]);
}

#[test]
fn extended_attributes() {
    let mut guest = Guest::new();
    let (inode, _) = guest.create(1, "file", ppc::O_RDWR, 0o600).unwrap();
    let set = fuse::SetxattrIn { size: 5, ..Default::default() };
    match guest.call(Opcode::Setxattr, inode, &[set.as_slice(), &string("user.colour"), b"green"]) {
        Err(libc::EOPNOTSUPP) => return, // A temporary directory on a file system without them.
        result => assert_eq!(result, Ok(vec![])),
    }
    let get = |size| fuse::GetxattrIn { size, padding: 0 };
    let value = guest.call(Opcode::Getxattr, inode, &[get(100).as_slice(), &string("user.colour")]).unwrap();
    assert_eq!(value, b"green");
    let size = guest.call(Opcode::Getxattr, inode, &[get(0).as_slice(), &string("user.colour")]).unwrap();
    assert_eq!(object::<fuse::GetxattrOut>(&size).size, 5);
    let short = guest.call(Opcode::Getxattr, inode, &[get(2).as_slice(), &string("user.colour")]);
    assert_eq!(short, Err(libc::ERANGE));
    let huge = guest.call(Opcode::Getxattr, inode, &[get(u32::MAX).as_slice(), &string("user.colour")]).unwrap();
    assert_eq!(huge, b"green");
    let names = guest.call(Opcode::Listxattr, inode, &[get(1000).as_slice()]).unwrap();
    assert!(names.windows(12).any(|window| window == b"user.colour\0"));
    guest.call(Opcode::Removexattr, inode, &[&string("user.colour")]).unwrap();
    let gone = guest.call(Opcode::Getxattr, inode, &[get(9).as_slice(), &string("user.colour")]);
    assert_eq!(gone, Err(libc::ENODATA));
    let lie = fuse::SetxattrIn { size: 50, ..Default::default() };
    let short = guest.call(Opcode::Setxattr, inode, &[lie.as_slice(), &string("user.colour"), b"green"]);
    assert_eq!(short, Err(libc::EINVAL));
}

#[test]
fn a_default_access_control_list_is_inherited_and_replaces_the_umask() {
    let mut guest = Guest::new();
    let mode_of = |guest: &Guest, name: &str| std::fs::metadata(guest.path(name)).unwrap().mode() & 0o7777;
    let mkdir = fuse::MkdirIn { mode: 0o777, umask: 0o027 };
    let made: fuse::EntryOut = object(&guest.call(Opcode::Mkdir, 1, &[mkdir.as_slice(), &string("d")]).unwrap());
    assert_eq!(mode_of(&guest, "d"), 0o750, "the umask is the host's to apply");
    // struct posix_acl_xattr_header and entries: owner rwx, user 3000 rw, group r, mask rw, others nothing.
    let entry = |tag: u16, allowed: u16, id: u32| [&tag.to_le_bytes()[..], &allowed.to_le_bytes(), &id.to_le_bytes()].concat();
    let nobody = u32::MAX;
    let entries = [entry(1, 7, nobody), entry(2, 6, 3000), entry(4, 4, nobody), entry(0x10, 6, nobody), entry(0x20, 0, nobody)];
    let list = [&2u32.to_le_bytes()[..], &entries.concat()].concat();
    let set = fuse::SetxattrIn { size: list.len() as u32, ..Default::default() };
    match guest.call(Opcode::Setxattr, made.nodeid, &[set.as_slice(), &string("system.posix_acl_default"), &list]) {
        Err(libc::EOPNOTSUPP) => return, // A temporary directory on a file system without them.
        result => assert_eq!(result, Ok(vec![])),
    }
    let mkdir = fuse::MkdirIn { mode: 0o777, umask: 0o077 };
    let inner: fuse::EntryOut = object(&guest.call(Opcode::Mkdir, made.nodeid, &[mkdir.as_slice(), &string("inner")]).unwrap());
    assert_eq!(mode_of(&guest, "d/inner"), 0o760, "the list's mask instead of the umask");
    let get = fuse::GetxattrIn { size: 200, padding: 0 };
    let inherited = guest.call(Opcode::Getxattr, inner.nodeid, &[get.as_slice(), &string("system.posix_acl_access")]).unwrap();
    assert!(inherited.windows(8).any(|window| window == entry(2, 6, 3000)));
}

#[test]
fn files_belong_to_the_guest_user_who_makes_them() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let mut guest = Guest::new();
    fs::set_permissions(guest.share.path(), fs::Permissions::from_mode(0o777)).unwrap();
    guest.uid = 1234;
    guest.create(1, "mine", ppc::O_RDWR, 0o600).unwrap();
    let mkdir = fuse::MkdirIn { mode: 0o700, umask: 0 };
    guest.call(Opcode::Mkdir, 1, &[mkdir.as_slice(), &string("dir")]).unwrap();
    guest.uid = 0;
    guest.create(1, "roots", ppc::O_RDWR, 0o600).unwrap();
    let owner = |name: &str| fs::metadata(guest.path(name)).map(|found| (found.uid(), found.gid())).unwrap();
    assert_eq!(owner("mine"), (1234, 1234));
    assert_eq!(owner("dir"), (1234, 1234));
    assert_eq!(owner("roots"), (0, 0));
    let inode = guest.walk("mine").nodeid;
    let chown = fuse::SetattrIn { valid: 1 << 1 | 1 << 2, uid: 5.into(), gid: 6.into(), ..Default::default() };
    guest.call(Opcode::Setattr, inode, &[chown.as_slice()]).unwrap();
    let found = fs::metadata(guest.path("mine")).unwrap();
    assert_eq!((found.uid(), found.gid()), (5, 6));
}

#[test]
fn mounts_below_the_share_are_announced_and_released_by_forget() {
    if !root_may_mount() {
        return;
    }
    let mut guest = Guest::new();
    fs::create_dir(guest.path("root")).unwrap();
    mount_tmpfs(&guest.path("root"));
    fs::write(guest.path("root/file"), "inside").unwrap();
    fs::create_dir(guest.path("plain")).unwrap();

    let mounted = guest.lookup(1, "root").unwrap();
    assert_eq!(mounted.attr.flags & fuse::ATTR_SUBMOUNT, fuse::ATTR_SUBMOUNT);
    assert_eq!(guest.lookup(1, "plain").unwrap().attr.flags & fuse::ATTR_SUBMOUNT, 0);
    assert_eq!(guest.read_file("root/file"), b"inside");
    let file = guest.walk("root/file").nodeid;
    // Listing sees the mount as well, and counts as a lookup.
    assert_eq!(guest.list(1)["root"].nodeid, mounted.nodeid);

    let unmount = |path: &Path| umount2(path, MntFlags::empty());
    assert_eq!(unmount(&guest.path("root")), Err(nix::errno::Errno::EBUSY), "the guest's inodes pin it");
    guest.forget(file, 100);
    guest.forget(mounted.nodeid, 100);
    unmount(&guest.path("root")).unwrap();
    // The root is not the guest's to forget.
    guest.forget(1, u64::MAX);
    assert!(guest.lookup(1, "plain").is_ok());
}

#[test]
fn a_reset_closes_everything_and_the_next_session_starts_clean() {
    if !root_may_mount() {
        return;
    }
    let mut guest = Guest::new();
    fs::create_dir(guest.path("root")).unwrap();
    mount_tmpfs(&guest.path("root"));
    let root = guest.walk("root").nodeid;
    let (inode, fh) = guest.create(root, "open", ppc::O_RDWR, 0o600).unwrap();
    guest.driver.bring_up();
    umount2(&guest.path("root"), MntFlags::empty()).unwrap();
    guest.init();
    assert_eq!(guest.read(inode, fh, 0, 1), Err(libc::EBADF));
    assert!(guest.lookup(1, "root").is_ok());
}

#[test]
fn what_is_not_supported_says_so() {
    let mut guest = Guest::new();
    for operation in [Opcode::TmpFile, Opcode::Setlk, Opcode::Ioctl, Opcode::Poll, Opcode::Bmap, Opcode::SetupMapping] {
        assert_eq!(guest.call(operation, 1, &[&[0; 64]]), Err(libc::ENOSYS), "{operation:?}");
    }
    // FUSE_STATX: asked for by every kernel, and no error.
    assert_eq!(guest.call_raw(52, 1, &[&[0; 24]], ROOM), Err(libc::ENOSYS));
    assert_eq!(guest.call_raw(4711, 1, &[], ROOM), Err(libc::ENOSYS));
    assert_eq!(guest.driver.statistic("errors"), 1, "an operation that does not exist");
}

#[test]
fn malformed_requests_get_an_error_and_are_counted() {
    let mut guest = Guest::new();
    let (inode, fh) = guest.create(1, "file", ppc::O_RDWR, 0o600).unwrap();
    // Every operation with its body cut short or missing.
    for opcode in 3..52u32 {
        if matches!(opcode, 26 | 36 | 38 | 42) {
            continue; // INIT and DESTROY end the session; INTERRUPT and BATCH_FORGET have no answer.
        }
        for body in [&[][..], &[0xff][..], &[0xff; 3]] {
            let _ = guest.call_raw(opcode, inode, &[body], ROOM);
        }
    }
    assert!(guest.driver.statistic("errors") > 50);
    // Offsets that no file has.
    for offset in [u64::MAX, i64::MAX as u64, 1 << 63] {
        assert_eq!(guest.read(inode, fh, offset, 4096), Err(libc::EINVAL));
        assert_eq!(guest.write(inode, fh, offset, b"x", 0), Err(libc::EINVAL));
    }
    // A write of more than was sent.
    let write = fuse::WriteIn { fh, size: 5000, ..Default::default() };
    assert_eq!(guest.call(Opcode::Write, inode, &[write.as_slice(), b"short"]), Err(libc::EINVAL));
    // Names without an end, and of absurd length.
    assert_eq!(guest.call(Opcode::Lookup, 1, &[b"endless"]), Err(libc::EINVAL));
    assert_eq!(guest.call(Opcode::Lookup, 1, &[&string(&"n".repeat(4096))]), Err(libc::ENAMETOOLONG));
    assert_eq!(guest.call(Opcode::Lookup, 1, &[&vec![b'n'; 1 << 20]]), Err(libc::ENAMETOOLONG));
    // Inodes and handles that were never given out.
    assert_eq!(guest.lookup(999, "file").unwrap_err(), libc::EBADF);
    assert_eq!(guest.read(inode, 999, 0, 1), Err(libc::EBADF));
    assert!(guest.lookup(1, "file").is_ok(), "the session goes on");
    assert_eq!(guest.driver.status(), 0x0f);
}

#[test]
fn requests_without_header_or_room_need_a_reset() {
    for (parts, room) in [(&[&[0u8; 8][..]][..], 64), (&[&[0; 40]], 8)] {
        let mut guest = Guest::new();
        let mut buffers: Vec<_> = parts.iter().map(|part| guest.driver.place(part)).collect();
        buffers.push(guest.driver.space(room));
        if parts[0].len() >= 40 {
            let header = fuse::InHeader { len: 40, opcode: 3, nodeid: 1, ..Default::default() };
            buffers[0] = guest.driver.place(header.as_slice());
        }
        guest.driver.offer(REQUEST, &buffers);
        guest.driver.notify(REQUEST);
        wait_for("DEVICE_NEEDS_RESET", || (guest.driver.status() & 0x40 != 0).then_some(()));
        guest.driver.bring_up();
        guest.init();
        assert!(guest.call(Opcode::Statfs, 1, &[]).is_ok());
    }
}

#[test]
fn random_requests_never_end_the_server() {
    let mut random = Random::new();
    let outside = TempDir::new().unwrap();
    fs::create_dir(outside.path().join("share")).unwrap();
    let mut guest = Guest::on(TempDir::new_in(outside.path().join("share")).unwrap());
    let names = ["a", "b", "c", "..", "a/b", "."];
    for _ in 0..3000 {
        let opcode = random.below(54) as u32;
        if matches!(opcode, 2 | 36 | 42) {
            continue;
        }
        let mut body: Vec<u8> =
            (0..random.below(88)).map(|_| if random.below(3) == 0 { random.next() as u8 } else { 0 }).collect();
        body.truncate(body.len() / 8 * 8);
        if random.below(2) == 0 {
            body.extend(string(names[random.below(6) as usize]));
            body.extend(string(names[random.below(6) as usize]));
        }
        let inode = if random.below(8) == 0 { random.next() } else { 1 + random.below(6) };
        let _ = guest.call_raw(opcode, inode, &[&body], 64 + random.below(4096) as usize);
    }
    guest.init();
    assert!(guest.call(Opcode::Statfs, 1, &[]).is_ok());
    let neighbours = fs::read_dir(outside.path().join("share")).unwrap().count();
    assert_eq!((neighbours, fs::read_dir(outside.path()).unwrap().count()), (1, 1), "nothing was made outside");
}
