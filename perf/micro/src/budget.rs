//! `budget.toml`: one line a scenario, `name = instructions`, `#` begins a comment.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::scenario::Scenario;

/// Instructions a command may cost.
pub struct Budget(BTreeMap<String, u32>);

impl Budget {
    /// Reads the file.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("{}", path.display()))?;
        Self::parse(&text).with_context(|| format!("{}", path.display()))
    }

    fn parse(text: &str) -> Result<Self> {
        let mut all = BTreeMap::new();
        for (n, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or("").trim();
            if line.is_empty() {
                continue;
            }
            let (name, value) = line.split_once('=').with_context(|| format!("line {}: no `=`", n + 1))?;
            let name = name.trim().trim_matches('"');
            let value = value.trim().replace('_', "");
            let value = value.parse().with_context(|| format!("line {}: {value:?} is no number", n + 1))?;
            // A misspelt name would be a budget nobody keeps.
            ensure!(Scenario::all().iter().any(|s| s.name() == name), "line {}: no scenario {name:?}", n + 1);
            ensure!(all.insert(name.to_owned(), value).is_none(), "line {}: {name} stands twice", n + 1);
        }
        Ok(Self(all))
    }

    /// The limit of a scenario, if it has one.
    pub fn of(&self, name: &str) -> Option<u32> {
        self.0.get(name).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_and_misspelt_ones_refused() {
        let budget = Budget::parse("# all\nread-null = 9_00 # why\n\n\"write-null\" = 1100\n").unwrap();
        assert_eq!(
            (budget.of("read-null"), budget.of("write-null"), budget.of("pool")),
            (Some(900), Some(1100), None)
        );
        for wrong in ["raed-null = 1", "read-null", "read-null = x", "read-null = 1\nread-null = 2"] {
            assert!(Budget::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_budget_of_the_repository_can_be_read_and_has_the_two_that_matter() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("budget.toml");
        let budget = Budget::read(&path).unwrap();
        assert_eq!((budget.of("read-null"), budget.of("write-null")), (Some(900), Some(1100)));
    }
}
