//! A text exchange in full feature phase (RFC 7143 §6.4): the target's answer may take several PDUs.

use spindle_iscsi_wire::keys::TextPairs;
use spindle_iscsi_wire::{TextResponse, Ttt};

use crate::violation::What;

/// More than any target has to say: some ten thousand targets.
const ANSWER_MAX: usize = 4 << 20;

#[derive(Debug, Default)]
pub(crate) struct TextTask {
    heard: Vec<u8>,
}

/// What to do after a response.
pub(crate) enum TextStep {
    /// Ask for more with this tag.
    More,
    /// All pairs.
    Done(Vec<(String, String)>),
    /// It makes no sense.
    Broken,
}

impl TextTask {
    pub(crate) fn on_response(&mut self, pdu: &TextResponse, text: &[u8], wrong: &mut Vec<What>) -> TextStep {
        // RFC 7143 §11.11.4: a tag exactly when the exchange goes on.
        if pdu.is_final != (pdu.ttt == Ttt::RESERVED) {
            wrong.push(What::TextTag);
            return TextStep::Broken;
        }
        self.heard.extend_from_slice(text);
        if self.heard.len() > ANSWER_MAX {
            wrong.push(What::TextTooLong);
            return TextStep::Broken;
        }
        if !pdu.is_final {
            return TextStep::More;
        }
        let mut pairs = Vec::new();
        for pair in TextPairs::new(&self.heard) {
            match pair {
                Ok(pair) => pairs.push((pair.key.to_owned(), pair.value.to_owned())),
                Err(error) => {
                    wrong.push(What::Text(error));
                    return TextStep::Broken;
                }
            }
        }
        TextStep::Done(pairs)
    }
}
