//! What a look at the machine found: facts that are as they should be, and findings that are not.
#![forbid(unsafe_code)]

use serde_json::{Value, json};
use std::fmt::{self, Write};

/// How much is lost by a finding. In order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Weight {
    /// Some speed, or only with a setting that is not the default.
    Hint,
    /// Much speed, whatever the setting.
    Slow,
    /// A node does not start, or its peers do not reach it.
    Broken,
}

/// Something that is missing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    pub weight: Weight,
    pub what: String,
    pub costs: String,
    /// A command that can be copied, or what no command can do.
    pub mend: String,
}

/// What one part of the machine was found to be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Section {
    pub name: &'static str,
    pub facts: Vec<String>,
    pub findings: Vec<Finding>,
}

impl Section {
    pub fn new(name: &'static str) -> Section {
        Section { name, facts: Vec::new(), findings: Vec::new() }
    }

    pub fn fact(&mut self, fact: impl Into<String>) {
        self.facts.push(fact.into());
    }

    pub fn miss(
        &mut self,
        weight: Weight,
        what: impl Into<String>,
        costs: impl Into<String>,
        mend: impl Into<String>,
    ) {
        let (what, costs, mend) = (what.into(), costs.into(), mend.into());
        self.findings.push(Finding { weight, what, costs, mend });
    }

    #[cfg(test)]
    pub fn whats(&self) -> Vec<(Weight, &str)> {
        self.findings.iter().map(|finding| (finding.weight, finding.what.as_str())).collect()
    }
}

/// Everything that was looked at.
pub struct Report(pub Vec<Section>);

impl Report {
    fn findings(&self) -> impl Iterator<Item = &Finding> {
        self.0.iter().flat_map(|section| &section.findings)
    }

    /// Whether nothing is missing that costs correctness or much speed.
    pub fn is_well(&self) -> bool {
        self.findings().all(|finding| finding.weight == Weight::Hint)
    }

    pub fn to_json(&self) -> Value {
        let finding = |finding: &Finding| {
            let Finding { weight, what, costs, mend } = finding;
            json!({ "weight": weight.word(), "what": what, "costs": costs, "mend": mend })
        };
        let section = |section: &Section| {
            let findings: Vec<Value> = section.findings.iter().map(finding).collect();
            json!({ "name": section.name, "facts": section.facts, "findings": findings })
        };
        let sections: Vec<Value> = self.0.iter().map(section).collect();
        json!({ "version": 1, "well": self.is_well(), "sections": sections })
    }
}

impl Weight {
    pub fn word(self) -> &'static str {
        match self {
            Weight::Hint => "hint",
            Weight::Slow => "slow",
            Weight::Broken => "broken",
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for section in &self.0 {
            writeln!(f, "{}", section.name)?;
            section.facts.iter().try_for_each(|fact| writeln!(f, "  ok      {fact}"))?;
            for Finding { weight, what, costs, mend } in &section.findings {
                writeln!(f, "  {:<8}{what}", weight.word())?;
                writeln!(f, "          costs: {costs}\n          mend:  {mend}")?;
            }
        }
        let mut counts = String::new();
        for weight in [Weight::Broken, Weight::Slow, Weight::Hint] {
            let count = self.findings().filter(|finding| finding.weight == weight).count();
            let comma = if counts.is_empty() { "" } else { ", " };
            write!(counts, "{comma}{count} {}", weight.word())?;
        }
        writeln!(f, "{counts}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(weights: &[Weight]) -> Report {
        let mut section = Section::new("clock");
        section.fact("tsc");
        weights.iter().for_each(|weight| section.miss(*weight, "w", "c", "m"));
        Report(vec![section])
    }

    /// Scripts ask the exit code whether a machine may serve.
    #[test]
    fn a_machine_is_well_when_only_hints_are_left() {
        assert!(report(&[]).is_well() && report(&[Weight::Hint]).is_well());
        assert!(!report(&[Weight::Hint, Weight::Slow]).is_well() && !report(&[Weight::Broken]).is_well());
    }

    #[test]
    fn a_finding_is_told_with_its_cost_and_its_mend() {
        let text = "clock\n  ok      tsc\n  slow    w\n          costs: c\n          mend:  m\n0 broken, 1 slow, 0 hint\n";
        assert_eq!(report(&[Weight::Slow]).to_string(), text);
        let json = report(&[Weight::Slow]).to_json();
        assert_eq!(json["well"], json!(false));
        assert_eq!(
            json["sections"][0]["findings"][0],
            json!({ "weight": "slow", "what": "w", "costs": "c", "mend": "m" })
        );
    }
}
