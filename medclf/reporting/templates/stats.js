// Numbers: intervals and predictive values. Pure functions.
const Z = 1.959963984540054; // of a 95 % interval

/** Wilson's score interval of k out of n; null where n is 0. */
function wilson(k, n) {
  if (!n) return null;
  const share = k / n, spread = Z * Z / n;
  const centre = (share + spread / 2) / (1 + spread);
  const half = Z / (1 + spread) * Math.sqrt(share * (1 - share) / n + spread / (4 * n));
  return [Math.max(0, Math.min(centre - half, share)), Math.min(1, Math.max(centre + half, share))];
}

/** A proportion with its interval: {value, low, high, k, n}; value is null where n is 0. */
function proportion(k, n) {
  const ends = wilson(k, n) || [null, null];
  return { value: n ? k / n : null, low: ends[0], high: ends[1], k, n };
}

/**
 * PPV and NPV at another prevalence: odds before times likelihood ratio are odds after (Bayes).
 * The interval is that of the ratio's logarithm with half an image added to each count (Walter 1975,
 * Biometrika 62: 371), which also holds where nothing was missed or falsely called.
 */
function predictive(tp, fn, fp, tn, prevalence) {
  const sick = tp + fn, well = tn + fp, none = { value: null, low: null, high: null };
  if (!sick || !well || !(prevalence > 0 && prevalence < 1)) return { ppv: none, npv: none };
  const odds = prevalence / (1 - prevalence);
  return { ppv: afterwards(tp, sick, fp, well, odds), npv: afterwards(tn, well, fn, sick, 1 / odds) };
}

/** The share of the first kind among what is called: a of n of the first kind, b of m of the second. */
function afterwards(a, n, b, m, odds) {
  const first = odds * a / n, second = b / m;
  if (!(first + second > 0)) return { value: null, low: null, high: null };
  const value = first / (first + second);
  const centre = Math.log(odds * ((a + 0.5) / (n + 0.5)) / ((b + 0.5) / (m + 0.5)));
  const half = Z * Math.sqrt(1 / (a + 0.5) - 1 / (n + 0.5) + 1 / (b + 0.5) - 1 / (m + 0.5));
  const share = (logOdds) => 1 / (1 + Math.exp(-logOdds));
  return { value, low: Math.min(share(centre - half), value), high: Math.max(share(centre + half), value) };
}
