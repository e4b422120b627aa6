//! Which of the two kinds a file is, by its content.

use crate::driver_read::DRIVER_KEYS;
use crate::label_read::{DEFINITION, LABEL};
use crate::problem::Source;
use crate::reader::nearest;
use crate::{ToolKey, tree};

/// The two kinds of files that people write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A label or a definition.
    Label,
    /// The config of a node or of the driver.
    Config,
}

/// Tells a label from a config by the keys at its top, also when the text is broken further down. An empty file is a
/// config: nothing is a valid config, and no label.
pub fn sniff(src: &Source<'_>) -> Kind {
    // The keys at the top decide; a hundred of them are enough.
    let mut keys = tree::parse(src.text).top_keys;
    keys.truncate(100);
    if keys.is_empty() {
        // Broken before the first key was complete, as unclosed JSON is.
        keys = words_before_colons(src.text);
    }
    let has = |name: &str| keys.iter().any(|key| key == name);
    if has("drivers") {
        return Kind::Config;
    }
    if ["label", "definition", "definitions"].into_iter().any(has) {
        return Kind::Label;
    }
    let label: Vec<&str> = [LABEL.fields, DEFINITION.fields, &["label", "definition"]].concat();
    let tools = ToolKey::ALL.map(ToolKey::key);
    let config: Vec<&str> = [DRIVER_KEYS, &tools, &["drivers", "node_name", "api_address"]].concat();
    // Exact names weigh more than names with a typing error.
    let weigh = |known: &[&str]| -> usize {
        keys.iter()
            .map(|key| {
                if known.contains(&key.as_str()) {
                    3
                } else {
                    usize::from(nearest(key, known.iter().copied()).is_some())
                }
            })
            .sum()
    };
    if weigh(&label) > weigh(&config) { Kind::Label } else { Kind::Config }
}

/// The first words that look like keys.
fn words_before_colons(text: &str) -> Vec<String> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let parts = text.split(':').take(10).filter(|part| part.len() < text.len());
    parts
        .filter_map(|part| part.trim_end_matches(['"', '\'', ' ', '\t']).rsplit(|c: char| !is_word(c)).next())
        .filter(|word| !word.is_empty() && word.len() < 64)
        .map(str::to_owned)
        .collect()
}
