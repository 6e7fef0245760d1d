//! Durations as Go writes them: `1h0m0s`, `250ms`, `0`.

use k8s_openapi::jiff::SignedDuration;
use k8s_openapi::jiff::fmt::friendly::{Spacing, SpanPrinter};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::time::Duration;

/// A duration in a configuration file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct GoDuration(pub(crate) Duration);

impl<'de> Deserialize<'de> for GoDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text == "0" {
            return Ok(Self::default());
        }
        let expected =
            || D::Error::custom(format_args!("{text:?} is no duration as in 30s or 1m30s"));
        let duration: SignedDuration = text.parse().map_err(|_not_one| expected())?;
        Duration::try_from(duration).map(Self).map_err(|_negative| expected())
    }
}

impl Serialize for GoDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let printer = SpanPrinter::new().spacing(Spacing::None);
        let duration = SignedDuration::try_from(self.0).unwrap_or(SignedDuration::MAX);
        serializer.serialize_str(&printer.duration_to_string(&duration))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_written_as_go_does() {
        for (text, milliseconds) in [
            ("0s", 0),
            ("0", 0),
            ("1s", 1000),
            ("1h0m0s", 3_600_000),
            ("250ms", 250),
            ("1.5s", 1500),
        ] {
            let read: GoDuration = serde_json::from_value(text.into()).unwrap();
            assert_eq!(read.0, Duration::from_millis(milliseconds), "{text}");
        }
        for text in ["", "fast", "-1s", "5"] {
            let read: Result<GoDuration, _> = serde_json::from_value(text.into());
            let error = read.unwrap_err().to_string();
            assert!(error.contains("is no duration as in 30s"), "{text:?}: {error}");
        }
        let written = serde_json::to_value(GoDuration(Duration::from_millis(90_250))).unwrap();
        assert_eq!(written, "1m30s250ms");
    }
}
