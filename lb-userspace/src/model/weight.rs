//! The annotation that weighs endpoints: of a Pod, or of a slice for all of its
//! endpoints.

use std::collections::BTreeMap;

use super::Findings;

/// The annotation that says which share of new connections an endpoint gets,
/// relative to the others' of its Service.
pub const WEIGHT_ANNOTATION: &str = "lb.network/weight";

/// The weight, if there is a good one. A bad one must not take endpoints away.
pub(super) fn weight(
    annotations: Option<&BTreeMap<String, String>>,
    findings: &mut Findings,
) -> Option<u16> {
    let text = annotations?.get(WEIGHT_ANNOTATION)?;
    // `parse` alone would also take a sign.
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let weight = text.parse().ok().filter(|_| digits);
    if weight.is_none() {
        findings.warning(
            format_args!("metadata.annotations[{WEIGHT_ANNOTATION}]"),
            format_args!("{text:?} is not a whole number from 0 to 65535, so it has no effect"),
        );
    }
    weight
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_weight_is_a_whole_number_of_16_bits() {
        for (text, expected) in [
            ("0", Some(0)),
            ("1", Some(1)),
            ("65535", Some(65_535)),
            ("65536", None),
            ("-1", None),
            ("+1", None),
            ("1.5", None),
            ("", None),
            (" 1", None),
        ] {
            let mut findings = Findings::default();
            let annotations = BTreeMap::from([(WEIGHT_ANNOTATION.into(), text.into())]);
            assert_eq!(weight(Some(&annotations), &mut findings), expected, "{text:?}");
            assert!(!findings.refused());
            let found = findings.into_vec();
            assert_eq!(found.is_empty(), expected.is_some(), "{text:?}");
            if let [finding] = &found[..] {
                assert_eq!(finding.field, "metadata.annotations[lb.network/weight]");
                let begin = format!("{text:?} is not a whole number");
                assert!(finding.message.starts_with(&begin), "{}", finding.message);
            }
        }
    }
}
