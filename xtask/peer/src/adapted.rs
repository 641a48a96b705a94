//! A file system whose open flags are a powerpc guest's. Everything else passes through.

use std::ffi::CStr;
use std::io;
use std::time::Duration;

use paperboat_microvm::virtio::fs::to_host;
use virtiofsd::filesystem::{
    Context, Entry, Extensions, FileSystem, FsOptions, GetxattrReply, ListxattrReply, OpenOptions, SerializableFileSystem,
    SetattrValid, SetxattrFlags, ZeroCopyReader, ZeroCopyWriter,
};
use virtiofsd::fuse;
use virtiofsd::passthrough::PassthroughFs;

/// What a guest gets of an opened file.
type Opened = (Option<u64>, OpenOptions);

/// The file system behind the translation.
pub struct Adapted(PassthroughFs);

impl Adapted {
    /// Puts `fs` behind it.
    pub fn new(fs: PassthroughFs) -> Self {
        Self(fs)
    }
}

impl SerializableFileSystem for Adapted {}

/// Methods that hand on their arguments as they are.
macro_rules! pass {
    ($($name:ident($($argument:ident: $type:ty),*) -> $reply:ty;)*) => {
        $(fn $name(&self, $($argument: $type),*) -> $reply {
            self.0.$name($($argument),*)
        })*
    };
}

impl FileSystem for Adapted {
    type Inode = u64;
    type Handle = u64;
    type DirIter = <PassthroughFs as FileSystem>::DirIter;

    fn open(&self, ctx: Context, inode: u64, kill_priv: bool, flags: u32) -> io::Result<Opened> {
        self.0.open(ctx, inode, kill_priv, to_host(flags))
    }

    fn create(
        &self,
        ctx: Context,
        parent: u64,
        name: &CStr,
        mode: u32,
        kill_priv: bool,
        flags: u32,
        umask: u32,
        extensions: Extensions,
    ) -> io::Result<(Entry, Option<u64>, OpenOptions)> {
        self.0.create(ctx, parent, name, mode, kill_priv, to_host(flags), umask, extensions)
    }

    fn opendir(&self, ctx: Context, inode: u64, flags: u32) -> io::Result<Opened> {
        self.0.opendir(ctx, inode, to_host(flags))
    }

    fn read<W: ZeroCopyWriter>(
        &self,
        ctx: Context,
        inode: u64,
        handle: u64,
        w: W,
        size: u32,
        offset: u64,
        lock_owner: Option<u64>,
        flags: u32,
    ) -> io::Result<usize> {
        self.0.read(ctx, inode, handle, w, size, offset, lock_owner, to_host(flags))
    }

    fn write<R: ZeroCopyReader>(
        &self,
        ctx: Context,
        inode: u64,
        handle: u64,
        r: R,
        size: u32,
        offset: u64,
        lock_owner: Option<u64>,
        delayed_write: bool,
        kill_priv: bool,
        flags: u32,
    ) -> io::Result<usize> {
        self.0.write(ctx, inode, handle, r, size, offset, lock_owner, delayed_write, kill_priv, to_host(flags))
    }

    fn release(
        &self,
        ctx: Context,
        inode: u64,
        flags: u32,
        handle: u64,
        flush: bool,
        flock_release: bool,
        lock_owner: Option<u64>,
    ) -> io::Result<()> {
        self.0.release(ctx, inode, to_host(flags), handle, flush, flock_release, lock_owner)
    }

    fn copyfilerange(
        &self,
        ctx: Context,
        inode_in: u64,
        handle_in: u64,
        offset_in: u64,
        inode_out: u64,
        handle_out: u64,
        offset_out: u64,
        len: u64,
        flags: u64,
    ) -> io::Result<usize> {
        self.0.copyfilerange(ctx, inode_in, handle_in, offset_in, inode_out, handle_out, offset_out, len, flags)
    }

    pass! {
        init(capable: FsOptions) -> io::Result<FsOptions>;
        destroy() -> ();
        lookup(ctx: Context, parent: u64, name: &CStr) -> io::Result<Entry>;
        forget(ctx: Context, inode: u64, count: u64) -> ();
        batch_forget(ctx: Context, requests: Vec<(u64, u64)>) -> ();
        getattr(ctx: Context, inode: u64, handle: Option<u64>) -> io::Result<(fuse::Attr, Duration)>;
        setattr(
            ctx: Context, inode: u64, attr: fuse::SetattrIn, handle: Option<u64>, valid: SetattrValid
        ) -> io::Result<(fuse::Attr, Duration)>;
        readlink(ctx: Context, inode: u64) -> io::Result<Vec<u8>>;
        symlink(ctx: Context, linkname: &CStr, parent: u64, name: &CStr, extensions: Extensions) -> io::Result<Entry>;
        mknod(
            ctx: Context, inode: u64, name: &CStr, mode: u32, rdev: u32, umask: u32, extensions: Extensions
        ) -> io::Result<Entry>;
        mkdir(ctx: Context, parent: u64, name: &CStr, mode: u32, umask: u32, extensions: Extensions) -> io::Result<Entry>;
        unlink(ctx: Context, parent: u64, name: &CStr) -> io::Result<()>;
        rmdir(ctx: Context, parent: u64, name: &CStr) -> io::Result<()>;
        rename(ctx: Context, olddir: u64, oldname: &CStr, newdir: u64, newname: &CStr, flags: u32) -> io::Result<()>;
        link(ctx: Context, inode: u64, newparent: u64, newname: &CStr) -> io::Result<Entry>;
        flush(ctx: Context, inode: u64, handle: u64, lock_owner: u64) -> io::Result<()>;
        fsync(ctx: Context, inode: u64, datasync: bool, handle: u64) -> io::Result<()>;
        fallocate(ctx: Context, inode: u64, handle: u64, mode: u32, offset: u64, length: u64) -> io::Result<()>;
        statfs(ctx: Context, inode: u64) -> io::Result<libc::statvfs64>;
        setxattr(
            ctx: Context, inode: u64, name: &CStr, value: &[u8], flags: u32, extra_flags: SetxattrFlags
        ) -> io::Result<()>;
        getxattr(ctx: Context, inode: u64, name: &CStr, size: u32) -> io::Result<GetxattrReply>;
        listxattr(ctx: Context, inode: u64, size: u32) -> io::Result<ListxattrReply>;
        removexattr(ctx: Context, inode: u64, name: &CStr) -> io::Result<()>;
        readdir(ctx: Context, inode: u64, handle: u64, size: u32, offset: u64) -> io::Result<Self::DirIter>;
        fsyncdir(ctx: Context, inode: u64, datasync: bool, handle: u64) -> io::Result<()>;
        releasedir(ctx: Context, inode: u64, flags: u32, handle: u64) -> io::Result<()>;
        access(ctx: Context, inode: u64, mask: u32) -> io::Result<()>;
        lseek(ctx: Context, inode: u64, handle: u64, offset: u64, whence: u32) -> io::Result<u64>;
        syncfs(ctx: Context, inode: u64) -> io::Result<()>;
    }
}
