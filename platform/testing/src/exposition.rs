//! Reads what `/metrics` tells, as strictly as Prometheus does.

use std::collections::{BTreeMap, HashSet};

/// What was told. Reading panics where Prometheus would refuse the text.
#[derive(Debug)]
pub struct Told {
    samples: Vec<Sample>,
}

#[derive(Debug)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

impl Told {
    /// Reads the text format 0.0.4: every family under its own heading and in one piece, every series once,
    /// histograms that add up.
    pub fn read(text: &str) -> Self {
        let (mut samples, mut seen, mut families) = (Vec::new(), HashSet::new(), HashSet::new());
        let (mut family, mut kind) = ("", "");
        for line in text.lines() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                family = help.split(' ').next().unwrap_or_default();
                assert!(families.insert(family), "{family} is told in two places");
                continue;
            }
            if let Some(typed) = line.strip_prefix("# TYPE ") {
                let (name, of) = typed.split_once(' ').unwrap_or_else(|| panic!("no type: {line}"));
                assert_eq!(name, family, "a type without its help");
                assert!(["counter", "gauge", "histogram"].contains(&of), "{line}");
                kind = of;
                continue;
            }
            let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no sample: {line}"));
            assert!(seen.insert(series), "told twice: {series}");
            let sample = Sample::read(series, value);
            let of_family = match kind {
                "histogram" => ["_bucket", "_sum", "_count"].map(|end| format!("{family}{end}")).to_vec(),
                _ => vec![family.to_owned()],
            };
            assert!(of_family.contains(&sample.name), "{line} stands under {family}");
            samples.push(sample);
        }
        let told = Self { samples };
        told.check_histograms();
        told
    }

    /// The sum over all series of this name with these labels, whatever their other labels; none when there is none.
    pub fn find(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let matching = self.samples.iter().filter(|sample| {
            sample.name == name
                && labels.iter().all(|(label, value)| sample.labels.get(*label).is_some_and(|of| of == value))
        });
        matching.map(|sample| sample.value).reduce(|sum, value| sum + value)
    }

    /// The same, of something that must be there.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.find(name, labels).unwrap_or_else(|| panic!("no {name} with {labels:?} in {:#?}", self.names()))
    }

    /// All values that a label has.
    pub fn values_of(&self, label: &str) -> Vec<&str> {
        let mut values: Vec<&str> =
            self.samples.iter().filter_map(|sample| sample.labels.get(label)).map(String::as_str).collect();
        values.sort_unstable();
        values.dedup();
        values
    }

    fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.samples.iter().map(|sample| sample.name.as_str()).collect();
        names.dedup();
        names
    }

    fn check_histograms(&self) {
        let mut last: BTreeMap<String, f64> = BTreeMap::new();
        for sample in self.samples.iter().filter(|sample| sample.labels.contains_key("le")) {
            let mut labels = sample.labels.clone();
            labels.remove("le");
            let count = format!("{}_count {labels:?}", sample.name.trim_end_matches("_bucket"));
            let before = last.insert(count, sample.value).unwrap_or_default();
            assert!(before <= sample.value, "a bucket is not cumulative: {sample:?}");
        }
        for sample in &self.samples {
            if let Some(bucket) = last.remove(&format!("{} {:?}", sample.name, sample.labels)) {
                assert_eq!(sample.value, bucket, "{} is not its last bucket", sample.name);
            }
        }
        assert!(last.is_empty(), "histograms without a count: {:?}", last.keys());
    }
}

impl Sample {
    fn read(series: &str, value: &str) -> Self {
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        let is_name = |name: &str| {
            name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
                && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        };
        assert!(is_name(name), "not a name: {name}");
        let labels = labels.strip_suffix('}').unwrap_or_else(|| panic!("labels are left open: {series}"));
        // Our labels hold names: nothing in them is escaped or contains a comma in quotes.
        let labels = labels.split_terminator("\",").map(|label| {
            let (name, value) = label.split_once("=\"").unwrap_or_else(|| panic!("no label: {label}"));
            assert!(is_name(name), "not a label: {label}");
            (name.to_owned(), value.trim_end_matches('"').to_owned())
        });
        let value = value.parse().unwrap_or_else(|_| panic!("{series} has no number: {value}"));
        Self { name: name.to_owned(), labels: labels.collect(), value }
    }
}
