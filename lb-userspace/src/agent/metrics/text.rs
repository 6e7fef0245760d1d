//! The text format of Prometheus (version 0.0.4), which kube-proxy has and every
//! scraper reads, made of OpenMetrics, which the library writes. They differ in
//! how families are announced, not in the samples.

/// Rewrites an exposition.
pub(super) fn classic(openmetrics: &str) -> String {
    let mut text = String::with_capacity(openmetrics.len());
    let mut help = "";
    for line in openmetrics.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ').map_or("", |(_, help)| help);
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap_or((rest, "unknown"));
            // A family has the name of its samples.
            let (suffix, kind) = match kind {
                "counter" => ("_total", "counter"),
                "info" => ("_info", "gauge"),
                "unknown" => ("", "untyped"),
                kind => ("", kind),
            };
            for part in ["# HELP ", name, suffix, " ", help, "\n"] {
                text.push_str(part);
            }
            for part in ["# TYPE ", name, suffix, " ", kind, "\n"] {
                text.push_str(part);
            }
        } else if !line.starts_with('#') {
            push_sample(&mut text, line);
        }
    }
    text
}

/// Bounds of buckets are whole numbers where they are whole: they are names of
/// series, which should be those that kube-proxy's had.
fn push_sample(text: &mut String, line: &str) {
    const BOUND: &str = "le=\"";
    let whole = line.find(BOUND).and_then(|at| {
        let begin = at + BOUND.len();
        let bound = line[begin..].split('"').next()?;
        Some((begin + bound.strip_suffix(".0")?.len(), begin + bound.len()))
    });
    match whole {
        Some((cut, end)) => {
            text.push_str(&line[..cut]);
            text.push_str(&line[end..]);
        }
        None => text.push_str(line),
    }
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_have_the_names_of_their_samples() {
        let openmetrics = "# HELP a Things.\n# TYPE a counter\na_total{x=\"1.0\"} 3\n\
                           # HELP b_total Others.\n# TYPE b_total gauge\nb_total 1.0\n\
                           # HELP c Build.\n# TYPE c info\nc_info{version=\"1\"} 1\n\
                           # HELP d_seconds Time.\n# TYPE d_seconds histogram\n# UNIT d_seconds seconds\n\
                           d_seconds_sum 1.5\nd_seconds_count 2\nd_seconds_bucket{le=\"0.25\"} 1\n\
                           d_seconds_bucket{le=\"60.0\",f=\"v\"} 2\nd_seconds_bucket{le=\"+Inf\"} 2\n# EOF\n";
        let expected = "# HELP a_total Things.\n# TYPE a_total counter\na_total{x=\"1.0\"} 3\n\
                        # HELP b_total Others.\n# TYPE b_total gauge\nb_total 1.0\n\
                        # HELP c_info Build.\n# TYPE c_info gauge\nc_info{version=\"1\"} 1\n\
                        # HELP d_seconds Time.\n# TYPE d_seconds histogram\n\
                        d_seconds_sum 1.5\nd_seconds_count 2\nd_seconds_bucket{le=\"0.25\"} 1\n\
                        d_seconds_bucket{le=\"60\",f=\"v\"} 2\nd_seconds_bucket{le=\"+Inf\"} 2\n";
        assert_eq!(classic(openmetrics), expected);
    }
}
