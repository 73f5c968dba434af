//! The file that holds the cluster's keys.
//!
//! One key per line, 64 hexadecimal digits; what follows a `#` is a comment. A second key is one that is on its way in
//! or out: frames under it are taken, and none are made.
#![forbid(unsafe_code)]

use super::error::StartError;
use crate::bounds::KEY_FILE_BYTES_MAX;
use crate::config::Config;
use crate::rpc::{BadKeyring, Keyring, SECRET_BYTES};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// Why a file is no file of keys.
#[derive(Debug, thiserror::Error)]
pub enum BadKeyFile {
    #[error("{0}")]
    Unreadable(#[from] io::Error),
    #[error("it has more than {KEY_FILE_BYTES_MAX} bytes")]
    Long,
    #[error("line {line} is no key")]
    Line { line: usize },
    #[error("it holds {0}")]
    Ring(#[from] BadKeyring),
}

pub(super) fn read_keys(path: &Path) -> Result<Keyring, StartError> {
    let mut text = String::new();
    // No more than shows that it is too long: whatever the path leads to may have no end.
    let most = KEY_FILE_BYTES_MAX as u64 + 1;
    let read = File::open(path).and_then(|file| file.take(most).read_to_string(&mut text));
    let keys = read.map_err(BadKeyFile::from).and_then(|_| parse_keys(&text));
    keys.map_err(|source| StartError::Keys { path: path.to_owned(), source })
}

/// Whether the key that a cluster names is there, and what about it works and is not as it should be: each
/// `WHAT (WHERE): WHY; REMEDY`.
pub fn check_keys(config: &Config) -> Result<Vec<String>, StartError> {
    let Some(path) = &config.key_file else {
        let open = "frames go in the open (cluster.plaintext): whoever reaches the ports of the nodes can read them and pose \
                    as a node; give the cluster a key with key_file = …";
        return Ok(config.is_exposed().then(|| open.to_string()).into_iter().collect());
    };
    read_keys(path)?;
    // Of a file that was there a moment ago.
    let mode = fs::metadata(path).map_or(0, |metadata| metadata.permissions().mode()) & 0o777;
    let others = format!(
        "the key is not secret (cluster.key_file, {}): its mode {mode:04o} lets others of this machine read or change it; \
         chmod 600 {}",
        path.display(),
        path.display()
    );
    Ok((mode & 0o026 > 0).then_some(others).into_iter().collect())
}

/// Makes a file with a new key, readable to nobody else, unless there is a file already.
pub fn make_keys(path: &Path) -> io::Result<()> {
    let mut secret = [0; SECRET_BYTES];
    aws_lc_rs::rand::fill(&mut secret).map_err(|_| io::Error::other("no random bytes"))?;
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(mut file) => {
            let digits: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
            writeln!(file, "{digits}")
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

/// Total: any text is a ring or a reason.
pub(crate) fn parse_keys(text: &str) -> Result<Keyring, BadKeyFile> {
    if text.len() > KEY_FILE_BYTES_MAX {
        return Err(BadKeyFile::Long);
    }
    let mut secrets = Vec::new();
    for (line, text) in (1..).zip(text.lines()) {
        let text = text.split('#').next().unwrap_or_default().trim();
        if !text.is_empty() {
            secrets.push(secret_of(text).ok_or(BadKeyFile::Line { line })?);
        }
    }
    Ok(Keyring::new(&secrets)?)
}

fn secret_of(text: &str) -> Option<[u8; SECRET_BYTES]> {
    let digits: Vec<u8> = text.chars().map(|digit| Some(digit.to_digit(16)? as u8)).collect::<Option<_>>()?;
    let bytes: Vec<u8> = digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect();
    bytes.try_into().ok().filter(|_| digits.len() == 2 * SECRET_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LocalCluster;

    /// A cluster that starts again must find the key it had.
    #[test]
    fn a_key_that_was_made_is_kept_and_nobody_else_may_read_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("new/cluster.key");
        make_keys(&path).unwrap();
        let made = fs::read_to_string(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(format!("{:?}", read_keys(&path).unwrap()), "Keyring of 1");
        make_keys(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), made);
        let other = directory.path().join("other.key");
        make_keys(&other).unwrap();
        assert_ne!(fs::read_to_string(&other).unwrap(), made);
    }

    #[test]
    fn a_file_of_one_key_or_two_is_read_and_any_other_is_refused_with_its_line() {
        let (one, two) = ("0f".repeat(32), "A1".repeat(32));
        assert_eq!(secret_of(&one), Some([0x0f; 32]));
        assert_eq!(secret_of(&two), Some([0xa1; 32]));
        let whole = format!("# of the cluster demo\n\n  {one}  # until May\n{two}\n");
        assert_eq!(format!("{:?}", parse_keys(&whole).unwrap()), "Keyring of 2");
        let refusal = |text: &str| parse_keys(text).unwrap_err().to_string();
        assert_eq!(refusal(&format!("\n{}", &one[1..])), "line 2 is no key");
        assert_eq!(refusal(&format!("{one}0")), "line 1 is no key");
        assert_eq!(refusal(&"0g".repeat(32)), "line 1 is no key");
        assert_eq!(refusal(&"é".repeat(32)), "line 1 is no key");
        assert!(refusal(&"#".repeat(KEY_FILE_BYTES_MAX + 1)).ends_with("more than 65536 bytes"));
        assert!(refusal("# nothing").starts_with("it holds 0 keys"));
        assert_eq!(refusal(&format!("{one}\n{one}")), "it holds the same key twice");
    }

    /// A key that everybody on the machine can read is no key.
    #[test]
    fn a_key_that_others_may_read_is_warned_of() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cluster.key");
        make_keys(&path).unwrap();
        let flags = LocalCluster { key_file: Some(path.clone()), ..LocalCluster::default() };
        let config = Config::local(&flags).unwrap();
        for (mode, warnings) in [(0o600, 0), (0o400, 0), (0o640, 0), (0o644, 1), (0o620, 1), (0o602, 1)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(check_keys(&config).unwrap().len(), warnings, "{mode:o}");
        }
        fs::remove_file(&path).unwrap();
        assert!(check_keys(&config).is_err());
        assert!(check_keys(&Config::local(&LocalCluster::default()).unwrap()).unwrap().is_empty());
    }
}
