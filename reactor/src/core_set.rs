//! Which processors to use, as an operator writes it.

use std::fmt;
use std::str::FromStr;

use spindle_ffi_os::cpu::CPU_MAX;

/// A set of processors by the kernel's numbers, ascending. The reactor at place *n* runs on the *n*-th.
///
/// Accepted: lists and ranges (`2-5`, `0,2,4-6`), the same in brackets (`[0,1,2]`), and masks (`0xF0`).
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct CoreSet(Vec<u32>);

/// What is wrong with a set of processors.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CoreSetError {
    /// Nothing was named.
    #[error("\"{0}\" names no processor")]
    Empty(String),
    /// A part that is neither a number nor a range.
    #[error("\"{part}\" in \"{text}\" is neither a processor number nor a range such as 2-5")]
    NotANumber {
        /// The part.
        part: String,
        /// All that was written.
        text: String,
    },
    /// A range that runs backwards.
    #[error("the range {first}-{last} in \"{text}\" runs backwards")]
    Backwards {
        /// Its first number.
        first: u32,
        /// Its last number.
        last: u32,
        /// All that was written.
        text: String,
    },
    /// A number no processor has.
    #[error("processor {cpu} in \"{text}\" is beyond the limit: numbers are below {CPU_MAX}")]
    TooLarge {
        /// The number, as far as it was read.
        cpu: u64,
        /// All that was written.
        text: String,
    },
    /// The same processor twice: surely a slip.
    #[error("processor {cpu} is named twice in \"{text}\"")]
    Twice {
        /// The number.
        cpu: u32,
        /// All that was written.
        text: String,
    },
    /// Something after 0x that is no hexadecimal digit.
    #[error("\"{0}\" is not a hexadecimal mask")]
    NotAMask(String),
    /// A bracket without its partner.
    #[error("the brackets of \"{0}\" do not match")]
    Brackets(String),
}

impl CoreSet {
    /// The processors, ascending.
    pub fn cpus(&self) -> &[u32] {
        &self.0
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// None at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `cpu` is one of them.
    pub fn contains(&self, cpu: u32) -> bool {
        self.0.binary_search(&cpu).is_ok()
    }

    /// Reads a list as the kernel writes it: an empty text is an empty set.
    pub(crate) fn from_kernel_list(text: &str) -> Result<CoreSet, CoreSetError> {
        if text.trim().is_empty() { Ok(CoreSet::default()) } else { parse_list(text.trim(), text) }
    }
}

impl FromIterator<u32> for CoreSet {
    fn from_iter<I: IntoIterator<Item = u32>>(cpus: I) -> CoreSet {
        let mut cpus: Vec<u32> = cpus.into_iter().collect();
        cpus.sort_unstable();
        cpus.dedup();
        CoreSet(cpus)
    }
}

impl FromStr for CoreSet {
    type Err = CoreSetError;

    fn from_str(text: &str) -> Result<CoreSet, CoreSetError> {
        let whole = text.trim();
        if let Some(digits) = whole.strip_prefix("0x").or_else(|| whole.strip_prefix("0X")) {
            return parse_mask(digits, text);
        }
        let list = match (whole.strip_prefix('['), whole.strip_suffix(']')) {
            (Some(_), Some(_)) if whole.len() >= 2 => whole[1..whole.len() - 1].trim(),
            (None, None) => whole,
            _ => return Err(CoreSetError::Brackets(text.into())),
        };
        if list.is_empty() {
            return Err(CoreSetError::Empty(text.into()));
        }
        parse_list(list, text)
    }
}

/// The shortest list that names the set: `0,2,4-6`.
impl fmt::Display for CoreSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, run) in self.0.chunk_by(|a, b| a + 1 == *b).enumerate() {
            let comma = if n == 0 { "" } else { "," };
            match run {
                [one] => write!(f, "{comma}{one}")?,
                [first, .., last] => write!(f, "{comma}{first}-{last}")?,
                [] => {}
            }
        }
        Ok(())
    }
}

fn parse_list(list: &str, text: &str) -> Result<CoreSet, CoreSetError> {
    let mut cpus = Vec::new();
    for part in list.split(',') {
        let (first, last) = match part.split_once('-') {
            Some((first, last)) => (number(first, part, text)?, number(last, part, text)?),
            None => (number(part, part, text)?, number(part, part, text)?),
        };
        if first > last {
            return Err(CoreSetError::Backwards { first, last, text: text.into() });
        }
        for cpu in first..=last {
            if cpus.contains(&cpu) {
                return Err(CoreSetError::Twice { cpu, text: text.into() });
            }
            cpus.push(cpu);
        }
    }
    Ok(cpus.into_iter().collect())
}

fn number(digits: &str, part: &str, text: &str) -> Result<u32, CoreSetError> {
    let digits = digits.trim();
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(CoreSetError::NotANumber { part: part.trim().into(), text: text.into() });
    }
    // More digits than a u64 holds: too large all the same.
    let cpu = digits.parse::<u64>().unwrap_or(u64::MAX);
    match u32::try_from(cpu) {
        Ok(n) if n < CPU_MAX => Ok(n),
        _ => Err(CoreSetError::TooLarge { cpu, text: text.into() }),
    }
}

fn parse_mask(digits: &str, text: &str) -> Result<CoreSet, CoreSetError> {
    // The kernel writes a comma between groups of eight digits.
    let digits: Vec<char> = digits.chars().filter(|&c| c != ',').collect();
    if digits.is_empty() {
        return Err(CoreSetError::NotAMask(text.into()));
    }
    let mut cpus = Vec::new();
    for (place, digit) in digits.iter().rev().enumerate() {
        let bits = digit.to_digit(16).ok_or_else(|| CoreSetError::NotAMask(text.into()))?;
        for bit in (0..4).filter(|bit| bits >> bit & 1 != 0) {
            let cpu = place as u64 * 4 + bit;
            match u32::try_from(cpu) {
                Ok(n) if n < CPU_MAX => cpus.push(n),
                _ => return Err(CoreSetError::TooLarge { cpu, text: text.into() }),
            }
        }
    }
    if cpus.is_empty() {
        return Err(CoreSetError::Empty(text.into()));
    }
    Ok(CoreSet(cpus))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cpus(text: &str) -> Vec<u32> {
        text.parse::<CoreSet>().unwrap_or_else(|e| panic!("{e}")).cpus().to_vec()
    }

    #[test]
    fn all_the_usual_ways_of_writing_a_set_are_read() {
        assert_eq!(cpus("2-5"), [2, 3, 4, 5]);
        assert_eq!(cpus("0,2,4-6"), [0, 2, 4, 5, 6]);
        assert_eq!(cpus(" 7 , 1 - 2 "), [1, 2, 7]);
        assert_eq!(cpus("0xF0"), [4, 5, 6, 7]);
        assert_eq!(cpus("0x1"), [0]);
        assert_eq!(cpus("0X80000000,00000001"), [0, 63]);
        assert_eq!(cpus("[0,1,2]"), [0, 1, 2]);
        assert_eq!(cpus("[ 3-4 ]"), [3, 4]);
        assert_eq!(cpus("1023"), [1023]);
    }

    #[test]
    fn errors_say_what_is_wrong_and_where() {
        let error = |text: &str| text.parse::<CoreSet>().unwrap_err().to_string();
        assert_eq!(error(""), "\"\" names no processor");
        assert_eq!(error("[]"), "\"[]\" names no processor");
        assert_eq!(error("0x0"), "\"0x0\" names no processor");
        assert_eq!(
            error("0,two"),
            "\"two\" in \"0,two\" is neither a processor number nor a range such as 2-5"
        );
        assert!(error("1,,2").contains("neither"));
        assert!(error("1-2-3").contains("neither"));
        assert!(error("+1").contains("neither"));
        assert_eq!(error("5-2"), "the range 5-2 in \"5-2\" runs backwards");
        assert_eq!(
            error("0-1024"),
            "processor 1024 in \"0-1024\" is beyond the limit: numbers are below 1024"
        );
        assert!(error("99999999999999999999999").contains("beyond the limit"));
        assert_eq!(error("1,0-3"), "processor 1 is named twice in \"1,0-3\"");
        assert_eq!(error("0xZZ"), "\"0xZZ\" is not a hexadecimal mask");
        assert_eq!(error("0x"), "\"0x\" is not a hexadecimal mask");
        assert!(error(&format!("0x1{}", "0".repeat(256))).contains("processor 1024"));
        assert_eq!(error("[1,2"), "the brackets of \"[1,2\" do not match");
        assert_eq!(error("]"), "the brackets of \"]\" do not match");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(cpus in proptest::collection::btree_set(0u32..1024, 1..60)) {
            let set: CoreSet = cpus.iter().copied().collect();
            prop_assert_eq!(&set.to_string().parse::<CoreSet>().unwrap(), &set);
            prop_assert_eq!(&format!("[{set}]").parse::<CoreSet>().unwrap(), &set);
            prop_assert!((0..1024).all(|cpu| set.contains(cpu) == cpus.contains(&cpu)));
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in "[0-9xXa-fA-F,\\-\\[\\] é]{0,40}") {
            let _ = text.parse::<CoreSet>();
        }
    }
}
