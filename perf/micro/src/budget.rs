//! `budget.toml`: one line a scenario, `name = instructions` or `name = [instructions, goal]`, `#` begins a comment.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::scenario::Scenario;

/// What a command may cost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Allowed {
    /// Instructions: what has been reached, and a little.
    pub most: u32,
    /// What it is to come to, if it has not yet.
    pub goal: Option<u32>,
}

/// What commands may cost, by scenario.
pub struct Budget(BTreeMap<String, Allowed>);

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
            let number = |text: &str| {
                text.trim().parse().with_context(|| format!("line {}: {text:?} is no number", n + 1))
            };
            let value = match value.strip_prefix('[').and_then(|pair| pair.strip_suffix(']')) {
                Some(pair) => {
                    let (most, goal) = pair.split_once(',').unwrap_or((pair, ""));
                    Allowed { most: number(most)?, goal: Some(number(goal)?) }
                }
                None => Allowed { most: number(&value)?, goal: None },
            };
            // A misspelt name would be a budget nobody keeps.
            ensure!(Scenario::all().iter().any(|s| s.name() == name), "line {}: no scenario {name:?}", n + 1);
            ensure!(all.insert(name.to_owned(), value).is_none(), "line {}: {name} stands twice", n + 1);
        }
        Ok(Self(all))
    }

    /// The limit of a scenario, if it has one.
    pub fn of(&self, name: &str) -> Option<Allowed> {
        self.0.get(name).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_and_misspelt_ones_refused() {
        let text = "# all\nread-null = [2_000, 900] # why\n\n\"write-null\" = 1100\n";
        let budget = Budget::parse(text).unwrap();
        assert_eq!(budget.of("read-null"), Some(Allowed { most: 2000, goal: Some(900) }));
        assert_eq!(budget.of("write-null"), Some(Allowed { most: 1100, goal: None }));
        assert_eq!(budget.of("pool"), None);
        let twice = "read-null = 1\nread-null = 2";
        for wrong in ["raed-null = 1", "read-null", "read-null = x", "read-null = [1]", twice] {
            assert!(Budget::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_budget_of_the_repository_can_be_read_and_has_the_two_that_matter() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("budget.toml");
        let budget = Budget::read(&path).unwrap();
        for (name, goal) in [("read-null", 900), ("write-null", 1100)] {
            let allowed = budget.of(name).unwrap();
            assert!(allowed.most <= goal || allowed.goal == Some(goal), "{name}: {allowed:?}");
        }
    }
}
