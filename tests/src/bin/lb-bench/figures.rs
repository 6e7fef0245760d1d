//! What is made of figures of several rounds.

/// The middle of some figures.
pub(crate) fn median(figures: impl IntoIterator<Item = f64>) -> f64 {
    quartiles(figures)[1]
}

/// The middle of some figures, and twice its standard error: what repeating the
/// whole run would change, as a rule, is less.
pub(crate) fn median_with_error(figures: impl IntoIterator<Item = f64>) -> (f64, f64) {
    let figures: Vec<f64> = figures.into_iter().collect();
    let count = u32::try_from(figures.len()).map_or(f64::NAN, f64::from);
    let [first, median, third] = quartiles(figures);
    // Of a normal distribution, half is within 1.349 deviations, and its median has
    // 1.253 times the error that its mean has.
    (median, 2.0 * 1.253 * (third - first) / 1.349 / count.sqrt())
}

fn quartiles(figures: impl IntoIterator<Item = f64>) -> [f64; 3] {
    let mut figures: Vec<f64> = figures.into_iter().collect();
    figures.sort_by(f64::total_cmp);
    [1, 2, 3].map(|quarter| figures.get(figures.len() * quarter / 4).copied().unwrap_or(f64::NAN))
}
