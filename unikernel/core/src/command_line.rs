//! The command line: what `extra=` in an `xl` configuration says.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

/// The words of a command line, in their order. A word ends at a space of ASCII that is not between double
/// quotes; the quotes are not part of it.
///
/// ```
/// use unikernel_core::command_line::CommandLine;
///
/// let line = CommandLine::parse(br#"domain=2 path="data/my vchan" verbose"#);
/// assert_eq!(line.value("domain"), Some("2"));
/// assert_eq!(line.value("path"), Some("data/my vchan"));
/// assert!(line.has("verbose"));
/// ```
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct CommandLine {
    words: Vec<String>,
}

impl CommandLine {
    /// Takes apart the bytes up to the first zero, or all of them. What is no text is replaced by
    /// U+FFFD, and a quotation that does not end goes to the end.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> CommandLine {
        let text = bytes.split(|&byte| byte == 0).next().unwrap_or_default();
        let text = String::from_utf8_lossy(text);
        let mut words = Vec::new();
        let mut word = None;
        let mut quoted = false;
        for character in text.chars() {
            match character {
                '"' => {
                    quoted = !quoted;
                    // Two quotes are an empty word.
                    word.get_or_insert_with(String::new);
                }
                space if space.is_ascii_whitespace() && !quoted => words.extend(word.take()),
                other => word.get_or_insert_with(String::new).push(other),
            }
        }
        words.extend(word);
        CommandLine { words }
    }

    /// The words.
    pub fn words(&self) -> impl Iterator<Item = &str> {
        self.words.iter().map(String::as_str)
    }

    /// Whether a word is there.
    #[must_use]
    pub fn has(&self, word: &str) -> bool {
        self.words().any(|there| there == word)
    }

    /// What follows `key=` in the last word that begins so.
    #[must_use]
    pub fn value(&self, key: &str) -> Option<&str> {
        let values = self
            .words()
            .filter_map(|word| word.strip_prefix(key)?.strip_prefix('='));
        values.last()
    }
}

impl fmt::Display for CommandLine {
    /// As it can be parsed again.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, word) in self.words().enumerate() {
            let gap = if n == 0 { "" } else { " " };
            if word.is_empty() || word.contains(|c: char| c.is_ascii_whitespace()) {
                write!(f, "{gap}\"{word}\"")?;
            } else {
                write!(f, "{gap}{word}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::format;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    fn words(bytes: &[u8]) -> Vec<String> {
        CommandLine::parse(bytes)
            .words()
            .map(String::from)
            .collect()
    }

    #[test]
    fn words_and_quotations() {
        assert!(words(b"").is_empty());
        assert!(words(b" \t\n").is_empty());
        assert_eq!(words(b" a  b=c\td "), ["a", "b=c", "d"]);
        assert_eq!(
            words(br#"x="two words"y "" end"#),
            ["x=two wordsy", "", "end"]
        );
        assert_eq!(words(br#"open "to the end "#), ["open", "to the end "]);
        assert_eq!(words(b"before\0after"), ["before"]);
        assert_eq!(words(b"\xFF\xFE a"), ["\u{FFFD}\u{FFFD}", "a"]);
    }

    #[test]
    fn the_last_value_counts() {
        let line = CommandLine::parse(b"a=1 b a=2=3 c=");
        assert_eq!(line.value("a"), Some("2=3"));
        assert_eq!(line.value("b"), None);
        assert_eq!(line.value("c"), Some(""));
        assert!(line.has("b") && !line.has("a"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_line_and_its_text_is_the_same_line(bytes: Vec<u8>) {
            let line = CommandLine::parse(&bytes);
            prop_assert_eq!(CommandLine::parse(format!("{line}").as_bytes()), line);
        }
    }
}
