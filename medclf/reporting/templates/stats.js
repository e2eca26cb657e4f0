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
 * PPV and NPV at another prevalence, by Bayes' rule; intervals by the adjusted logit method
 * (Mercaldo, Lau & Zhou 2007, Statistics in Medicine 26: 2170).
 */
function predictive(tp, fn, fp, tn, prevalence) {
  const sick = tp + fn, well = tn + fp, none = { value: null, low: null, high: null, n: sick + well };
  if (!sick || !well || !(prevalence > 0 && prevalence < 1)) return { ppv: none, npv: none };
  const se = tp / sick, sp = tn / well, n1 = sick + Z * Z, n0 = well + Z * Z;
  const s1 = (tp + Z * Z / 2) / n1, s0 = (tn + Z * Z / 2) / n0;
  const odds = prevalence / (1 - prevalence);
  return {
    ppv: withLogitInterval(se * odds, 1 - sp, s1 * odds / (1 - s0), (1 - s1) / (s1 * n1) + s0 / ((1 - s0) * n0), none.n),
    npv: withLogitInterval(sp / odds, 1 - se, s0 / odds / (1 - s1), s1 / ((1 - s1) * n1) + (1 - s0) / (s0 * n0), none.n),
  };
}

function withLogitInterval(yes, no, adjustedOdds, variance, n) {
  const value = yes + no > 0 ? yes / (yes + no) : null;
  if (value === null) return { value, low: null, high: null, n };
  const end = (side) => 1 / (1 + Math.exp(-(Math.log(adjustedOdds) + side * Z * Math.sqrt(variance))));
  return { value, low: Math.min(end(-1), value), high: Math.max(end(1), value), n };
}
