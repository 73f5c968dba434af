//! The data directory of one core, held against other processes: its log, its votes, its checkpoints.
//!
//! Invariant: the lock is held as long as any clone lives. Not here: what the files hold.
#![forbid(unsafe_code)]

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::DiskError;

/// Cloning shares it, and the lock.
#[derive(Clone, Debug)]
pub struct CoreDirectory(Arc<Locked>);

#[derive(Debug)]
struct Locked {
    path: PathBuf,
    /// Holds the lock until it is closed.
    _lock: File,
}

impl CoreDirectory {
    /// Makes the directory if it is not there.
    pub fn lock(path: &Path) -> Result<CoreDirectory, DiskError> {
        fs::create_dir_all(path).map_err(|source| io_error("creating the directory", path, source))?;
        let lock_path = path.join("lock");
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(&lock_path);
        let lock = lock.map_err(|source| io_error("opening the lock", &lock_path, source))?;
        match lock.try_lock() {
            Ok(()) => Ok(CoreDirectory(Arc::new(Locked { path: path.to_owned(), _lock: lock }))),
            Err(TryLockError::WouldBlock) => Err(DiskError::InUse { path: path.to_owned() }),
            Err(TryLockError::Error(source)) => Err(io_error("locking", &lock_path, source)),
        }
    }

    pub fn path(&self) -> &Path {
        &self.0.path
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.0.path.join(name)
    }

    /// The names of what is there, in no order.
    pub(super) fn names(&self) -> Result<Vec<String>, DiskError> {
        let path = self.path();
        let list = || fs::read_dir(path)?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>();
        let names = list().map_err(|source| io_error("listing", path, source))?;
        Ok(names.into_iter().filter_map(|name| name.into_string().ok()).collect())
    }

    /// Removes the files with one of these endings: what a dead process was in the midst of.
    pub(super) fn remove_ending(&self, endings: &[&str]) -> Result<(), DiskError> {
        for name in self.names()?.iter().filter(|name| endings.iter().any(|ending| name.ends_with(ending))) {
            let path = self.file(name);
            fs::remove_file(&path).map_err(|source| io_error("removing", &path, source))?;
        }
        self.sync_names()
    }

    /// Makes renames and removals durable.
    pub(super) fn sync_names(&self) -> Result<(), DiskError> {
        let synced = File::open(self.path()).and_then(|directory| directory.sync_all());
        synced.map_err(|source| io_error("syncing the directory", self.path(), source))
    }
}

/// Every write durable when it is done. Some file systems refuse O_DIRECT: then through the page cache,
/// and `false`.
pub(super) fn open_direct(path: &Path) -> io::Result<(File, bool)> {
    let open = |flags| {
        OpenOptions::new().create(true).truncate(false).read(true).write(true).custom_flags(flags).open(path)
    };
    match open(libc::O_DSYNC | libc::O_DIRECT) {
        Err(refused) if refused.raw_os_error() == Some(libc::EINVAL) => Ok((open(libc::O_DSYNC)?, false)),
        opened => Ok((opened?, true)),
    }
}

/// For reading from its beginning, past the page cache where that is possible: what is read once need not be kept.
pub(super) fn open_to_read(path: &Path) -> io::Result<File> {
    let open = |flags| OpenOptions::new().read(true).custom_flags(flags).open(path);
    match open(libc::O_DIRECT) {
        Err(refused) if refused.raw_os_error() == Some(libc::EINVAL) => open(0),
        opened => opened,
    }
}

pub(super) fn io_error(what: &'static str, path: &Path, source: io::Error) -> DiskError {
    DiskError::Io { what, path: path.to_owned(), source }
}
