//! The configuration file: a list of calls, replayed at start.
//!
//! The form is SPDK's, so that a file saved there can be read here as far as the methods exist:
//!
//! ```json
//! { "subsystems": [ { "subsystem": "bdev",
//!                     "config": [ { "method": "bdev_malloc_create", "params": { … } } ] } ] }
//! ```

use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A whole configuration file.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Default)]
#[serde(deny_unknown_fields)]
pub struct ConfigFile {
    /// In the order in which they are replayed.
    pub subsystems: Vec<Subsystem>,
}

/// The calls of one part of the product.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Subsystem {
    /// `bdev`, `iscsi`, …: for people; the calls say it all.
    pub subsystem: String,
    /// Its calls; SPDK writes `null` for none.
    pub config: Option<Vec<Call>>,
}

/// One call.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Call {
    /// Name of the method.
    pub method: String,
    /// Its parameters.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub params: Value,
}

/// Why a configuration file was not taken or not written.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is not what it should be.
    #[error("{path}: {place}: {why}")]
    Form {
        /// Which file.
        path: PathBuf,
        /// Where in the file (path of fields), or the line.
        place: String,
        /// What is wrong there.
        why: String,
    },
    /// Others may read it, and it holds secrets.
    #[error("{path}: mode {mode:o} lets others read the secrets in it; run: chmod 600 {path}")]
    Exposed {
        /// Which file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
}

/// A configuration file holds at most this much.
const FILE_BYTES_MAX: u64 = 256 * 1024 * 1024;

impl ConfigFile {
    /// Reads a file.
    pub fn read(path: &Path) -> Result<ConfigFile, FileError> {
        let io = |source| FileError::Io { path: path.into(), source };
        let length = std::fs::metadata(path).map_err(io)?.len();
        if length > FILE_BYTES_MAX {
            let why = format!("{length} bytes, and a configuration has {FILE_BYTES_MAX} at most");
            return Err(FileError::Form { path: path.into(), place: "file".into(), why });
        }
        let text = std::fs::read_to_string(path).map_err(io)?;
        let config = ConfigFile::parse(&text).map_err(|(place, why)| FileError::Form {
            path: path.into(),
            place,
            why,
        })?;
        if config.holds_secrets() {
            use std::os::unix::fs::PermissionsExt;
            let mode = std::fs::metadata(path).map_err(io)?.permissions().mode() & 0o777;
            if mode & 0o077 != 0 {
                return Err(FileError::Exposed { path: path.into(), mode });
            }
        }
        Ok(config)
    }

    /// Parses the text of a file; an error says where and why.
    pub fn parse(text: &str) -> Result<ConfigFile, (String, String)> {
        let mut json = serde_json::Deserializer::from_str(text);
        let config = serde_path_to_error::deserialize(&mut json)
            .map_err(|e| (e.path().to_string(), e.inner().to_string()))?;
        json.end().map_err(|e| ("end of file".to_string(), e.to_string()))?;
        Ok(config)
    }

    /// All calls in order, each with its place in the file.
    pub fn calls(&self) -> impl Iterator<Item = (String, &Call)> + '_ {
        self.subsystems.iter().enumerate().flat_map(|(s, part)| {
            let calls = part.config.iter().flatten();
            calls.enumerate().map(move |(c, call)| (format!("subsystems[{s}].config[{c}]"), call))
        })
    }

    /// Writes the file, mode 0600, whole or not at all: a new file beside it is written, flushed and renamed.
    pub fn write(&self, path: &Path) -> Result<(), FileError> {
        use std::os::unix::fs::OpenOptionsExt;
        let io = |source| FileError::Io { path: path.into(), source };
        let mut name = path.file_name().unwrap_or_default().to_os_string();
        name.push(".new");
        let new = path.with_file_name(name);
        let _ = std::fs::remove_file(&new);
        let mut file =
            std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new).map_err(io)?;
        let text = serde_json::to_string_pretty(self).expect("strings and values always serialise");
        file.write_all(text.as_bytes()).and_then(|()| file.write_all(b"\n")).map_err(io)?;
        file.sync_all().map_err(io)?;
        std::fs::rename(&new, path).map_err(io)?;
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        std::fs::File::open(folder).and_then(|d| d.sync_all()).map_err(io)
    }

    /// Whether any call carries a secret in clear text.
    pub fn holds_secrets(&self) -> bool {
        fn secret(v: &Value) -> bool {
            match v {
                Value::Object(o) => o
                    .iter()
                    .any(|(k, v)| (matches!(k.as_str(), "secret" | "msecret") && v.is_string()) || secret(v)),
                Value::Array(a) => a.iter().any(secret),
                _ => false,
            }
        }
        self.calls().any(|(_, call)| secret(&call.params))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use serde_json::json;

    use super::*;

    fn sample() -> ConfigFile {
        let calls = vec![Call { method: "m".into(), params: json!({"a": 1}) }];
        ConfigFile {
            subsystems: vec![
                Subsystem { subsystem: "empty".into(), config: None },
                Subsystem { subsystem: "s".into(), config: Some(calls) },
            ],
        }
    }

    #[test]
    fn what_was_written_is_read_and_nobody_else_may_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.json");
        sample().write(&path).unwrap();
        sample().write(&path).unwrap();
        assert_eq!(ConfigFile::read(&path).unwrap(), sample());
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn an_error_names_the_place_in_the_file() {
        let (place, why) =
            ConfigFile::parse(r#"{"subsystems":[{"subsystem":"s","config":[{"methd":"x"}]}]}"#).unwrap_err();
        assert_eq!(place, "subsystems[0].config[0].methd");
        assert!(why.contains("unknown field"), "{why}");
        assert_eq!(ConfigFile::parse("{\"subsystems\":[]} x").unwrap_err().0, "end of file");
    }

    #[test]
    fn secrets_in_a_file_that_others_may_read_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.json");
        let mut config = sample();
        config.subsystems[1].config.as_mut().unwrap()[0].params = json!({"secrets": [{"secret": "abc"}]});
        config.write(&path).unwrap();
        assert!(ConfigFile::read(&path).is_ok());
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(ConfigFile::read(&path), Err(FileError::Exposed { mode: 0o644, .. })));
    }

    #[test]
    fn calls_come_in_order_with_their_place() {
        let c = sample();
        let places: Vec<_> = c.calls().map(|(p, c)| (p, c.method.clone())).collect();
        assert_eq!(places, [("subsystems[1].config[0]".to_string(), "m".to_string())]);
    }
}
