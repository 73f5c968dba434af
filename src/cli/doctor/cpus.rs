//! CPUs: how fast they run, and who else runs on them.
#![forbid(unsafe_code)]

use super::finding::{Section, Weight};
use super::machine::Machine;

pub fn look(machine: &Machine) -> Section {
    let mut section = Section::new("CPUs");
    let cpus = machine.numbered(CPUS, "cpu");
    look_at_governors(machine, &cpus, &mut section);
    look_at_isolation(machine, cpus.len(), &mut section);
    section
}

fn look_at_governors(machine: &Machine, cpus: &[String], section: &mut Section) {
    let read = |cpu: &String, name: &str| machine.text(&format!("{CPUS}/{cpu}/cpufreq/{name}"));
    let mut governors: Vec<String> = cpus.iter().filter_map(|cpu| read(cpu, "scaling_governor")).collect();
    governors.sort();
    governors.dedup();
    if governors.is_empty() {
        return section.fact("frequency: not this kernel's to choose");
    }
    let driver = cpus.iter().find_map(|cpu| read(cpu, "scaling_driver")).unwrap_or_default();
    let what = format!("frequency: governor {} ({driver})", governors.join(", "));
    if governors == ["performance"] {
        return section.fact(what);
    }
    // These raise the frequency of a busy CPU by themselves; the others take the word for the lowest one.
    let is_lowest = governors.iter().any(|name| name == "powersave")
        && !["intel_pstate", "amd-pstate-epp"].contains(&driver.as_str());
    let (weight, costs) = if is_lowest {
        (Weight::Slow, "every CPU stays at its lowest frequency")
    } else {
        (
            Weight::Hint,
            "a core that slept wakes at a low frequency: the first transactions after a pause are slow",
        )
    };
    let mend = format!("echo performance | tee /{CPUS}/cpu*/cpufreq/scaling_governor");
    section.miss(weight, what, costs, mend);
}

fn look_at_isolation(machine: &Machine, count: usize, section: &mut Section) {
    let isolated = machine.text(&format!("{CPUS}/isolated")).unwrap_or_default();
    if !isolated.is_empty() {
        return section.fact(format!("isolated: {isolated}"));
    }
    if count < WORTH_ISOLATING {
        return section.fact(format!("isolated: none of {count}, which are too few for it"));
    }
    let range = format!("{}-{}", count / 4, count - 1);
    let costs = "other programs and the kernel's own work interrupt pinned cores (cores = […], poll = \"busy\") for up to \
                 milliseconds; nothing without them";
    let mend = format!(
        "echo 'GRUB_CMDLINE_LINUX=\"$GRUB_CMDLINE_LINUX isolcpus={range} nohz_full={range} rcu_nocbs={range}\"' > \
         /etc/default/grub.d/mako.cfg && update-grub && reboot"
    );
    section.miss(Weight::Hint, format!("isolated: none of {count}"), costs, mend);
}

const CPUS: &str = "sys/devices/system/cpu";
/// One of fewer for the rest of the machine would be a large part of it.
const WORTH_ISOLATING: usize = 4;

#[cfg(test)]
mod tests {
    use super::super::machine::made_of;
    use super::*;

    fn governed(governor: &str, driver: &str) -> Section {
        let cpufreq = |cpu: usize, name: &str| format!("{CPUS}/cpu{cpu}/cpufreq/{name}");
        let files = [
            (cpufreq(0, "scaling_governor"), "performance\n"),
            (cpufreq(1, "scaling_governor"), governor),
            (cpufreq(0, "scaling_driver"), driver),
            (format!("{CPUS}/cpufreq/boost"), "1"),
        ];
        let files = files.each_ref().map(|(path, text)| (path.as_str(), *text));
        let (machine, _directory) = made_of(&files);
        look(&machine)
    }

    #[test]
    fn one_cpu_that_saves_power_is_enough_to_be_told_of() {
        assert!(governed("performance\n", "acpi-cpufreq\n").findings.is_empty());
        let lowest = governed("powersave\n", "acpi-cpufreq\n");
        assert_eq!(
            lowest.whats(),
            [(Weight::Slow, "frequency: governor performance, powersave (acpi-cpufreq)")]
        );
        assert_eq!(governed("powersave\n", "intel_pstate\n").findings[0].weight, Weight::Hint);
        assert_eq!(governed("schedutil\n", "acpi-cpufreq\n").findings[0].weight, Weight::Hint);
    }

    #[test]
    fn a_machine_of_many_cpus_isolates_most_of_them() {
        let of = |cpus: usize, isolated: &str| {
            let online: Vec<String> = (0..cpus).map(|cpu| format!("{CPUS}/cpu{cpu}/online")).collect();
            let mut files: Vec<(&str, &str)> = online.iter().map(|path| (path.as_str(), "1")).collect();
            let path = format!("{CPUS}/isolated");
            files.push((&path, isolated));
            let (machine, _directory) = made_of(&files);
            look(&machine)
        };
        assert!(of(2, "\n").findings.is_empty() && of(8, "2-7\n").findings.is_empty());
        let shared = of(16, "\n");
        assert_eq!(shared.whats(), [(Weight::Hint, "isolated: none of 16")]);
        assert!(shared.findings[0].mend.contains("isolcpus=4-15 "), "{shared:?}");
    }
}
