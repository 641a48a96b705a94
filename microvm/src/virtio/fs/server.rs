//! The FUSE server: one function per operation, dispatched by one table (linux/fuse.h).
//!
//! It stands between the wire and virtiofsd's `PassthroughFs`, which keeps an O_PATH descriptor per inode and resolves one name at a time
//! below it. What that crate's own server does is done here, because its server accepts names with slashes (it relies on a
//! chroot), takes flags untranslated, and ends the process on some malformed requests.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use libc::{EINVAL, ENOSYS, EPROTO, ERANGE};
use virtiofsd::filesystem::{
    DirEntry, DirectoryIterator, Entry, Extensions, FileSystem, FsOptions, GetxattrReply, ListxattrReply, SetattrValid,
    SetxattrFlags,
};
use virtiofsd::fuse::{self, Opcode};
use virtiofsd::passthrough::PassthroughFs;
use vm_memory::ByteValued;

use super::census::Census;
use super::flags::to_host;
use super::wire::{Answer, MAX_XATTR_BYTES, OUT_HEADER_BYTES, Request, error, operation, split_component, split_string, target};
use crate::virtio::queue::{Chain, ChainFault, Counters, Ram};
use crate::virtio::worker::Served;

/// Most bytes of one write, and the room for one read of a 4K-page guest times four: transfers go straight between guest
/// memory and file, so that a large one costs no memory here.
const MAX_WRITE_BYTES: u32 = 1 << 20;

/// Most pages of one request, counted in the guest's pages: up to 16 MiB with 64K pages. The request queue has room for the
/// descriptors (the guest takes queue size - 4 at most).
const MAX_PAGES: u16 = 256;

/// Most bytes of directory entries per answer. A larger buffer is simply not filled.
const MAX_READDIR_BYTES: usize = 128 << 10;

/// Most data of a write that a vCPU copies by itself.
const MAX_DIRECT_BYTES: usize = 128 << 10;

/// Most inodes in one BATCH_FORGET. Linux sends as many as fit a page.
const MAX_FORGETS: u32 = 64 << 10;

/// Background requests the guest may have in flight: more than its request queue holds makes no difference.
const MAX_BACKGROUND: u16 = 1024;

/// FUSE_STATX, which Linux asks for once since 6.6; the answer has it use FUSE_GETATTR from then on. No mistake of the guest's.
const STATX: u32 = 52;

/// What is offered beyond what the file system itself negotiates. POSIX_LOCKS and FLOCK_LOCKS are missing on purpose: locks are the guest's own.
const OFFERED: FsOptions = FsOptions::ASYNC_READ
    .union(FsOptions::PARALLEL_DIROPS)
    .union(FsOptions::BIG_WRITES)
    .union(FsOptions::AUTO_INVAL_DATA)
    .union(FsOptions::ASYNC_DIO)
    .union(FsOptions::ATOMIC_O_TRUNC)
    .union(FsOptions::MAX_PAGES)
    .union(FsOptions::SUBMOUNTS)
    .union(FsOptions::INIT_EXT)
    .union(FsOptions::DO_READDIRPLUS)
    .union(FsOptions::READDIRPLUS_AUTO)
    .union(FsOptions::HANDLE_KILLPRIV_V2);

/// What access control lists need: the lists themselves, the guest's umask left to the host (a default list replaces it), and word of the set-group-id
/// bit that a new list takes away. In force when the file system wants them.
const ACCESS_CONTROL_LISTS: FsOptions = FsOptions::POSIX_ACL.union(FsOptions::DONT_MASK).union(FsOptions::SETXATTR_EXT);

pub(super) struct Server {
    fs: PassthroughFs,
    /// What the guest remembers and has open of it.
    census: Census,
    /// Options in force since INIT.
    options: AtomicU64,
}

/// Answers of operations that return a structure.
type Reply<T> = io::Result<T>;

impl Server {
    pub(super) fn new(fs: PassthroughFs, census: Census) -> Self {
        Self { fs, census, options: AtomicU64::new(0) }
    }

    /// Lets go of requests that wait, now and later.
    pub(super) fn close(&self) {
        self.census.close();
    }

    /// Forgets all inodes and handles, closing what they hold.
    pub(super) fn forget_everything(&self) {
        self.fs.destroy();
        self.census.clear();
        self.options.store(0, Ordering::Relaxed);
    }

    /// Serves one request. On a vCPU's thread (`direct`) what may wait is left for the queue's own thread.
    pub(super) fn handle<'a>(
        &self,
        memory: &'a Ram,
        chain: Chain<'a>,
        counters: &Counters,
        direct: bool,
    ) -> Result<Served, ChainFault> {
        if direct && !operation(memory, chain.clone()).is_some_and(is_short_work) {
            return Ok(Served::Later);
        }
        let mut request = Request::new(memory, chain.clone())?;
        let header = request.header;
        let body_bytes = request.data_bytes();
        let Ok(operation) = Opcode::try_from(header.opcode) else {
            if header.opcode == (Opcode::Init as u32).swap_bytes() {
                log::error!("a big-endian guest cannot use this file system");
            }
            if header.opcode != STATX {
                Counters::count(&counters.errors);
            }
            return Answer::new(memory, chain, header.unique)?.finish(Err(error(ENOSYS))).map(Served::Now);
        };
        if let Some(result) = self.without_answer(operation, &mut request) {
            if result.is_err() {
                Counters::count(&counters.errors);
            }
            return Ok(Served::Now(0));
        }
        if direct && body_bytes > MAX_DIRECT_BYTES {
            return Ok(Served::Later);
        }
        if takes_a_descriptor(operation) && !self.census.has_room() {
            if direct {
                return Ok(Served::Later);
            }
            self.census.wait_for_room();
        }
        let mut answer = Answer::new(memory, chain, header.unique)?;
        let result = self.dispatch(operation, request, &mut answer, direct);
        if direct && matches!(operation, Opcode::Read) && result.as_ref().is_err_and(not_cached) {
            return Ok(Served::Later);
        }
        if let Err(failure) = &result {
            log::trace!("{operation:?} {}: {failure}", header.nodeid);
            if failure.raw_os_error().is_none_or(|number| number == EINVAL) {
                Counters::count(&counters.errors);
            }
        }
        let written = answer.finish(result)?;
        Counters::add(&counters.bytes_from_guest, body_bytes as u64);
        Counters::add(&counters.bytes_to_guest, u64::from(written) - OUT_HEADER_BYTES as u64);
        Ok(Served::Now(written))
    }

    /// The operations that nobody waits for.
    fn without_answer(&self, operation: Opcode, request: &mut Request<'_>) -> Option<io::Result<()>> {
        match operation {
            Opcode::Forget => Some(self.forget(request)),
            Opcode::BatchForget => Some(self.batch_forget(request)),
            // Nothing here waits long enough to be worth interrupting.
            Opcode::Interrupt => Some(Ok(())),
            _ => None,
        }
    }

    fn dispatch(&self, operation: Opcode, mut request: Request<'_>, answer: &mut Answer<'_>, direct: bool) -> io::Result<()> {
        let r = &mut request;
        match operation {
            Opcode::Init => give(answer, self.init(r)),
            Opcode::Destroy => {
                self.forget_everything();
                Ok(())
            }
            Opcode::Lookup => give_entry(answer, self.told(self.lookup(r))),
            Opcode::Getattr => give(answer, self.getattr(r)),
            Opcode::Setattr => give(answer, self.setattr(r)),
            Opcode::Readlink => answer.write(&self.fs.readlink(r.context(), r.inode())?),
            Opcode::Symlink => give_entry(answer, self.told(self.symlink(r))),
            Opcode::Mknod => give_entry(answer, self.told(self.mknod(r))),
            Opcode::Mkdir => give_entry(answer, self.told(self.mkdir(r))),
            Opcode::Link => give_entry(answer, self.told(self.link(r))),
            Opcode::Unlink => self.unlink(r, false),
            Opcode::Rmdir => self.unlink(r, true),
            Opcode::Rename => self.rename(r),
            Opcode::Rename2 => self.rename2(r),
            Opcode::Open => give(answer, self.open(r, false)),
            Opcode::Opendir => give(answer, self.open(r, true)),
            Opcode::Create => self.create(r, answer),
            Opcode::Read => self.read(r, answer, direct),
            Opcode::Write => self.write(request, answer),
            Opcode::Flush => self.flush(r),
            Opcode::Release => self.release(r, false),
            Opcode::Releasedir => self.release(r, true),
            Opcode::Fsync => self.fsync(r, false),
            Opcode::Fsyncdir => self.fsync(r, true),
            Opcode::Readdir => self.readdir(r, answer, false),
            Opcode::Readdirplus => self.readdir(r, answer, true),
            Opcode::Statfs => give(answer, self.fs.statfs(r.context(), r.inode()).map(fuse::Kstatfs::from)),
            Opcode::Access => self.access(r),
            Opcode::Setxattr => self.setxattr(r),
            Opcode::Getxattr => self.getxattr(r, answer),
            Opcode::Listxattr => self.listxattr(r, answer),
            Opcode::Removexattr => self.removexattr(r),
            Opcode::Fallocate => self.fallocate(r),
            Opcode::Lseek => give(answer, self.lseek(r)),
            Opcode::CopyFileRange => give(answer, self.copy_file_range(r)),
            Opcode::Syncfs => self.fs.syncfs(r.context(), r.inode()),
            // ENOSYS tells the guest once and for all. Its kernel then answers by itself: O_TMPFILE with EOPNOTSUPP, ioctls with ENOTTY,
            // poll with "always ready"; locks never come because they were not offered.
            Opcode::TmpFile
            | Opcode::Getlk
            | Opcode::Setlk
            | Opcode::Setlkw
            | Opcode::Bmap
            | Opcode::Ioctl
            | Opcode::Poll
            | Opcode::NotifyReply
            | Opcode::SetupMapping
            | Opcode::RemoveMapping => Err(error(ENOSYS)),
            // Handled by `without_answer`.
            Opcode::Forget | Opcode::BatchForget | Opcode::Interrupt => Ok(()),
        }
    }

    fn init(&self, request: &mut Request<'_>) -> Reply<fuse::InitOut> {
        let fuse::InitInCompat { major, minor, max_readahead, flags } = request.object()?;
        let own = fuse::InitOut { major: fuse::KERNEL_VERSION, minor: fuse::KERNEL_MINOR_VERSION, ..Default::default() };
        if major > fuse::KERNEL_VERSION {
            return Ok(own); // The guest comes again with this version.
        }
        if major < fuse::KERNEL_VERSION || minor < fuse::MIN_KERNEL_MINOR_VERSION {
            log::error!("the guest speaks FUSE {major}.{minor}, too old");
            return Err(error(EPROTO));
        }
        let mut flags = u64::from(flags);
        if flags & FsOptions::INIT_EXT.bits() != 0 {
            let extension: fuse::InitInExt = request.object()?;
            flags |= u64::from(extension.flags2) << 32;
        }
        let capable = FsOptions::from_bits_truncate(flags) & OFFERED.union(ACCESS_CONTROL_LISTS);
        let wanted = self.fs.init(capable)?;
        let enabled = (capable & (wanted | OFFERED)).bits();
        self.options.store(enabled, Ordering::Relaxed);
        Ok(fuse::InitOut {
            max_readahead,
            flags: enabled as u32,
            flags2: (enabled >> 32) as u32,
            max_background: MAX_BACKGROUND,
            congestion_threshold: MAX_BACKGROUND / 4 * 3,
            max_write: MAX_WRITE_BYTES,
            time_gran: 1,
            max_pages: MAX_PAGES,
            ..own
        })
    }

    fn forget(&self, request: &mut Request<'_>) -> io::Result<()> {
        let fuse::ForgetIn { nlookup } = request.object()?;
        self.forget_one(request, request.inode(), nlookup);
        Ok(())
    }

    fn batch_forget(&self, request: &mut Request<'_>) -> io::Result<()> {
        let fuse::BatchForgetIn { count, .. } = request.object()?;
        if count > MAX_FORGETS {
            return Err(error(EINVAL));
        }
        for _ in 0..count {
            let fuse::ForgetOne { nodeid, nlookup } = request.object()?;
            self.forget_one(request, nodeid, nlookup);
        }
        Ok(())
    }

    fn forget_one(&self, request: &Request<'_>, inode: u64, count: u64) {
        // The root belongs to the session, not to a lookup.
        if inode != fuse::ROOT_ID {
            self.fs.forget(request.context(), inode, count);
            self.census.forgot(inode, count);
        }
    }

    /// Counts an inode that the guest is told of.
    fn told(&self, reply: Reply<Entry>) -> Reply<Entry> {
        reply.inspect(|entry| self.census.learned(entry.inode))
    }

    fn lookup(&self, request: &mut Request<'_>) -> Reply<Entry> {
        let trailer = request.trailer()?;
        let (name, _) = split_component(&trailer)?;
        self.fs.lookup(request.context(), request.inode(), name)
    }

    fn getattr(&self, request: &mut Request<'_>) -> Reply<fuse::AttrOut> {
        let fuse::GetattrIn { flags, fh, .. } = request.object()?;
        let handle = (flags & fuse::GETATTR_FH != 0).then_some(fh);
        self.fs.getattr(request.context(), request.inode(), handle).map(attributes)
    }

    fn setattr(&self, request: &mut Request<'_>) -> Reply<fuse::AttrOut> {
        let change: fuse::SetattrIn = request.object()?;
        let handle = (change.valid & fuse::FATTR_FH != 0).then_some(change.fh);
        let valid = SetattrValid::from_bits_truncate(change.valid);
        self.fs.setattr(request.context(), request.inode(), change, handle, valid).map(attributes)
    }

    fn symlink(&self, request: &mut Request<'_>) -> Reply<Entry> {
        let trailer = request.trailer()?;
        let (name, rest) = split_component(&trailer)?;
        self.fs.symlink(request.context(), target(rest)?, request.inode(), name, Extensions::default())
    }

    fn mknod(&self, request: &mut Request<'_>) -> Reply<Entry> {
        let fuse::MknodIn { mode, rdev, umask, .. } = request.object()?;
        let trailer = request.trailer()?;
        let (name, _) = split_component(&trailer)?;
        self.fs.mknod(request.context(), request.inode(), name, mode, rdev, umask, Extensions::default())
    }

    fn mkdir(&self, request: &mut Request<'_>) -> Reply<Entry> {
        let fuse::MkdirIn { mode, umask } = request.object()?;
        let trailer = request.trailer()?;
        let (name, _) = split_component(&trailer)?;
        self.fs.mkdir(request.context(), request.inode(), name, mode, umask, Extensions::default())
    }

    fn link(&self, request: &mut Request<'_>) -> Reply<Entry> {
        let fuse::LinkIn { oldnodeid } = request.object()?;
        let trailer = request.trailer()?;
        let (name, _) = split_component(&trailer)?;
        self.fs.link(request.context(), oldnodeid, request.inode(), name)
    }

    fn unlink(&self, request: &mut Request<'_>, directory: bool) -> io::Result<()> {
        let trailer = request.trailer()?;
        let (name, _) = split_component(&trailer)?;
        if directory {
            self.fs.rmdir(request.context(), request.inode(), name)
        } else {
            self.fs.unlink(request.context(), request.inode(), name)
        }
    }

    fn rename(&self, request: &mut Request<'_>) -> io::Result<()> {
        let fuse::RenameIn { newdir } = request.object()?;
        self.rename_to(request, newdir, 0)
    }

    fn rename2(&self, request: &mut Request<'_>) -> io::Result<()> {
        let fuse::Rename2In { newdir, flags, .. } = request.object()?;
        if flags & !(libc::RENAME_EXCHANGE | libc::RENAME_NOREPLACE | libc::RENAME_WHITEOUT) != 0 {
            return Err(error(EINVAL));
        }
        self.rename_to(request, newdir, flags)
    }

    fn rename_to(&self, request: &mut Request<'_>, directory: u64, flags: u32) -> io::Result<()> {
        let trailer = request.trailer()?;
        let (old, rest) = split_component(&trailer)?;
        let (new, _) = split_component(rest)?;
        self.fs.rename(request.context(), request.inode(), old, directory, new, flags)
    }

    fn open(&self, request: &mut Request<'_>, directory: bool) -> Reply<fuse::OpenOut> {
        let fuse::OpenIn { flags, open_flags } = request.object()?;
        // O_EXCL without O_CREAT means nothing to a file; it came along for CREATE only.
        let flags = to_host(flags) & !(libc::O_EXCL.cast_unsigned());
        let (handle, options) = if directory {
            self.fs.opendir(request.context(), request.inode(), flags)?
        } else {
            let kill_privileges = open_flags & fuse::OPEN_KILL_SUIDGID != 0;
            self.fs.open(request.context(), request.inode(), kill_privileges, flags)?
        };
        self.census.opened();
        Ok(fuse::OpenOut { fh: handle.unwrap_or(0), open_flags: options.bits(), ..Default::default() })
    }

    fn create(&self, request: &mut Request<'_>, answer: &mut Answer<'_>) -> io::Result<()> {
        let fuse::CreateIn { flags, mode, umask, open_flags } = request.object()?;
        let trailer = request.trailer()?;
        let (name, _) = split_component(&trailer)?;
        let kill_privileges = open_flags & fuse::OPEN_KILL_SUIDGID != 0;
        let (entry, handle, options) = self.fs.create(
            request.context(),
            request.inode(),
            name,
            mode,
            kill_privileges,
            to_host(flags),
            umask,
            Extensions::default(),
        )?;
        self.census.learned(entry.inode);
        self.census.opened();
        let opened = fuse::OpenOut { fh: handle.unwrap_or(0), open_flags: options.bits(), ..Default::default() };
        answer.write(fuse::EntryOut::from(entry).as_slice())?;
        answer.write(opened.as_slice())
    }

    fn read(&self, request: &mut Request<'_>, answer: &mut Answer<'_>, direct: bool) -> io::Result<()> {
        let fuse::ReadIn { fh, offset, size, flags, .. } = request.object()?;
        // More than the answer has room for cannot be given.
        let size = u32::try_from(answer.room()).map_or(size, |room| size.min(room));
        let payload = answer.payload(direct);
        self.fs.read(request.context(), request.inode(), fh, payload, size, offset, None, to_host(flags)).map(drop)
    }

    fn write(&self, mut request: Request<'_>, answer: &mut Answer<'_>) -> io::Result<()> {
        let fuse::WriteIn { fh, offset, size, write_flags, flags, .. } = request.object()?;
        if size as usize > request.data_bytes() {
            return Err(error(EINVAL));
        }
        let (context, inode) = (request.context(), request.inode());
        let delayed = write_flags & fuse::WRITE_CACHE != 0;
        let kill_privileges = write_flags & fuse::WRITE_KILL_PRIV != 0;
        let data = request.into_data();
        let written = self.fs.write(context, inode, fh, data, size, offset, None, delayed, kill_privileges, to_host(flags))?;
        answer.write(fuse::WriteOut { size: written as u32, ..Default::default() }.as_slice())
    }

    fn flush(&self, request: &mut Request<'_>) -> io::Result<()> {
        let fuse::FlushIn { fh, lock_owner, .. } = request.object()?;
        self.fs.flush(request.context(), request.inode(), fh, lock_owner)
    }

    fn release(&self, request: &mut Request<'_>, directory: bool) -> io::Result<()> {
        let fuse::ReleaseIn { fh, flags, .. } = request.object()?;
        if directory {
            self.fs.releasedir(request.context(), request.inode(), to_host(flags), fh)?;
        } else {
            self.fs.release(request.context(), request.inode(), to_host(flags), fh, false, false, None)?;
        }
        self.census.closed();
        Ok(())
    }

    fn fsync(&self, request: &mut Request<'_>, directory: bool) -> io::Result<()> {
        let fuse::FsyncIn { fh, fsync_flags, .. } = request.object()?;
        let data_only = fsync_flags & fuse::FSYNC_FDATASYNC != 0;
        if directory {
            self.fs.fsyncdir(request.context(), request.inode(), data_only, fh)
        } else {
            self.fs.fsync(request.context(), request.inode(), data_only, fh)
        }
    }

    fn readdir(&self, request: &mut Request<'_>, answer: &mut Answer<'_>, plus: bool) -> io::Result<()> {
        let fuse::ReadIn { fh, offset, size, .. } = request.object()?;
        let limit = (size as usize).min(answer.room()).min(MAX_READDIR_BYTES);
        let mut entries = self.fs.readdir(request.context(), request.inode(), fh, limit as u32, offset)?;
        let mut page = Vec::with_capacity(limit);
        while let Some(entry) = entries.next() {
            let bytes = size_of::<fuse::Dirent>() + entry.name.to_bytes().len();
            let whole = bytes.next_multiple_of(8) + if plus { size_of::<fuse::EntryOut>() } else { 0 };
            if page.len() + whole > limit {
                break;
            }
            if plus {
                // The size was checked first: an entry that is looked up is also delivered, so its count is the guest's.
                match self.entry_of(request, &entry) {
                    Ok(found) => page.extend_from_slice(fuse::EntryOut::from(found).as_slice()),
                    // Gone since it was listed: the guest sees the name without an inode and looks it up itself.
                    Err(_) => page.extend_from_slice(fuse::EntryOut::from(no_inode(&entry)).as_slice()),
                }
            }
            let dirent = fuse::Dirent {
                ino: entry.ino,
                off: entry.offset,
                namelen: entry.name.to_bytes().len() as u32,
                type_: entry.type_,
            };
            page.extend_from_slice(dirent.as_slice());
            page.extend_from_slice(entry.name.to_bytes());
            page.resize(page.len().next_multiple_of(8), 0);
        }
        answer.write(&page)
    }

    fn entry_of(&self, request: &Request<'_>, entry: &DirEntry<'_>) -> io::Result<Entry> {
        if matches!(entry.name.to_bytes(), b"." | b"..") {
            return Ok(no_inode(entry));
        }
        self.told(self.fs.lookup(request.context(), request.inode(), entry.name))
    }

    fn access(&self, request: &mut Request<'_>) -> io::Result<()> {
        let fuse::AccessIn { mask, .. } = request.object()?;
        self.fs.access(request.context(), request.inode(), mask)
    }

    fn setxattr(&self, request: &mut Request<'_>) -> io::Result<()> {
        let fuse::SetxattrInCompat { size, flags } = request.object()?;
        let mut extra = SetxattrFlags::empty();
        if self.options.load(Ordering::Relaxed) & FsOptions::SETXATTR_EXT.bits() != 0 {
            let [bits, _padding]: [u32; 2] = request.object()?;
            extra = SetxattrFlags::from_bits_truncate(bits);
        }
        let trailer = request.trailer()?;
        let (name, value) = split_string(&trailer)?;
        let value = value.get(..size as usize).filter(|value| value.len() <= MAX_XATTR_BYTES).ok_or_else(|| error(EINVAL))?;
        self.fs.setxattr(request.context(), request.inode(), name, value, flags, extra)
    }

    fn getxattr(&self, request: &mut Request<'_>, answer: &mut Answer<'_>) -> io::Result<()> {
        let fuse::GetxattrIn { size, .. } = request.object()?;
        let trailer = request.trailer()?;
        let (name, _) = split_string(&trailer)?;
        let size = size.min(MAX_XATTR_BYTES as u32);
        match self.fs.getxattr(request.context(), request.inode(), name, size)? {
            GetxattrReply::Value(value) => give_bytes(answer, &value),
            GetxattrReply::Count(size) => answer.write(fuse::GetxattrOut { size, ..Default::default() }.as_slice()),
        }
    }

    fn listxattr(&self, request: &mut Request<'_>, answer: &mut Answer<'_>) -> io::Result<()> {
        let fuse::GetxattrIn { size, .. } = request.object()?;
        let size = size.min(MAX_XATTR_BYTES as u32);
        match self.fs.listxattr(request.context(), request.inode(), size)? {
            ListxattrReply::Names(names) => give_bytes(answer, &names),
            ListxattrReply::Count(size) => answer.write(fuse::GetxattrOut { size, ..Default::default() }.as_slice()),
        }
    }

    fn removexattr(&self, request: &mut Request<'_>) -> io::Result<()> {
        let trailer = request.trailer()?;
        let (name, _) = split_string(&trailer)?;
        self.fs.removexattr(request.context(), request.inode(), name)
    }

    fn fallocate(&self, request: &mut Request<'_>) -> io::Result<()> {
        let fuse::FallocateIn { fh, offset, length, mode, .. } = request.object()?;
        self.fs.fallocate(request.context(), request.inode(), fh, mode, offset, length)
    }

    fn lseek(&self, request: &mut Request<'_>) -> Reply<fuse::LseekOut> {
        let fuse::LseekIn { fh, offset, whence, .. } = request.object()?;
        let offset = self.fs.lseek(request.context(), request.inode(), fh, offset, whence)?;
        Ok(fuse::LseekOut { offset })
    }

    fn copy_file_range(&self, request: &mut Request<'_>) -> Reply<fuse::WriteOut> {
        let from: fuse::CopyfilerangeIn = request.object()?;
        let copied = self.fs.copyfilerange(
            request.context(),
            request.inode(),
            from.fh_in,
            from.off_in,
            from.nodeid_out,
            from.fh_out,
            from.off_out,
            from.len.min(u64::from(u32::MAX)),
            from.flags,
        )?;
        Ok(fuse::WriteOut { size: copied as u32, ..Default::default() })
    }
}

/// Operations that are a look at metadata or a copy, served by the vCPU that asks. The others wait for a disk by their nature; a
/// read says itself whether its data is there.
fn is_short_work(operation: u32) -> bool {
    Opcode::try_from(operation).is_ok_and(|operation| {
        !matches!(
            operation,
            Opcode::Init
                | Opcode::Destroy
                | Opcode::Fsync
                | Opcode::Fsyncdir
                | Opcode::Syncfs
                | Opcode::Fallocate
                | Opcode::CopyFileRange
        )
    })
}

/// Operations after which the guest may remember or have open more than before.
fn takes_a_descriptor(operation: Opcode) -> bool {
    matches!(
        operation,
        Opcode::Lookup
            | Opcode::Symlink
            | Opcode::Mknod
            | Opcode::Mkdir
            | Opcode::Link
            | Opcode::Create
            | Opcode::Open
            | Opcode::Opendir
            | Opcode::Readdirplus
    )
}

/// What a file system says that has not got the data in memory, or cannot tell.
fn not_cached(failure: &io::Error) -> bool {
    matches!(failure.raw_os_error(), Some(libc::EAGAIN | libc::EOPNOTSUPP))
}

/// Writes a structure as the answer.
fn give<T: ByteValued>(answer: &mut Answer<'_>, reply: Reply<T>) -> io::Result<()> {
    answer.write(reply?.as_slice())
}

fn give_entry(answer: &mut Answer<'_>, reply: Reply<Entry>) -> io::Result<()> {
    answer.write(fuse::EntryOut::from(reply?).as_slice())
}

/// Writes an attribute's value, or says that the guest's buffer is too small for it.
fn give_bytes(answer: &mut Answer<'_>, bytes: &[u8]) -> io::Result<()> {
    if bytes.len() > answer.room() {
        return Err(error(ERANGE));
    }
    answer.write(bytes)
}

fn attributes((attr, valid): (fuse::Attr, Duration)) -> fuse::AttrOut {
    fuse::AttrOut { attr_valid: valid.as_secs(), attr_valid_nsec: valid.subsec_nanos(), dummy: 0, attr }
}

/// An entry that only tells a name: inode 0 makes the guest remember nothing.
fn no_inode(entry: &DirEntry<'_>) -> Entry {
    Entry {
        inode: 0,
        generation: 0,
        attr: fuse::Attr { ino: entry.ino, mode: entry.type_ << 12, ..Default::default() },
        attr_timeout: Duration::ZERO,
        entry_timeout: Duration::ZERO,
    }
}
