//! The file that holds the cluster's keys.
//!
//! One key per line, 64 hexadecimal digits; what follows a `#` is a comment. A second key is one that is on its way in
//! or out: frames under it are taken, and none are made.
#![forbid(unsafe_code)]

use super::error::StartError;
use crate::rpc::{BadKeyring, Keyring, SECRET_BYTES};
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Why a file is no file of keys.
#[derive(Debug, thiserror::Error)]
pub enum BadKeyFile {
    #[error("{0}")]
    Unreadable(#[from] io::Error),
    #[error("line {line} is no key")]
    Line { line: usize },
    #[error("it holds {0}")]
    Ring(#[from] BadKeyring),
}

pub(super) fn read_keys(path: &Path) -> Result<Keyring, StartError> {
    let text = fs::read_to_string(path).map_err(BadKeyFile::from);
    let keys = text.and_then(|text| parse_keys(&text));
    keys.map_err(|source| StartError::Keys { path: path.to_owned(), source })
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

fn parse_keys(text: &str) -> Result<Keyring, BadKeyFile> {
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
    use std::os::unix::fs::PermissionsExt;

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
        assert!(refusal("# nothing").starts_with("it holds 0 keys"));
        assert_eq!(refusal(&format!("{one}\n{one}")), "it holds the same key twice");
    }
}
