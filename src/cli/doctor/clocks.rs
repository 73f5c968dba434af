//! What the kernel tells the time by: a core asks twice a turn.
#![forbid(unsafe_code)]

use super::finding::{Section, Weight};
use super::machine::Machine;

pub fn look(machine: &Machine) -> Section {
    let mut section = Section::new("clock");
    let read = |name: &str| machine.text(&format!("{DIRECTORY}/{name}"));
    let Some(current) = read("current_clocksource") else {
        section.fact("its source is not known");
        return section;
    };
    if READ_WITHOUT_KERNEL.contains(&current.as_str()) {
        section.fact(format!("source {current}"));
        return section;
    }
    let available = read("available_clocksource").unwrap_or_default();
    let better =
        READ_WITHOUT_KERNEL.iter().find(|better| available.split_whitespace().any(|name| name == **better));
    let mend = match better {
        Some(better) => format!("echo {better} > /{DIRECTORY}/current_clocksource"),
        None => "boot with the kernel argument tsc=reliable, if dmesg does not say that the TSC is not"
            .to_string(),
    };
    let costs = "each look at the clock is a call of the kernel that reads a device: a microsecond and more in place of 20 ns, \
                 twice a turn";
    section.miss(Weight::Slow, format!("source {current}"), costs, mend);
    section
}

const DIRECTORY: &str = "sys/devices/system/clocksource/clocksource0";
/// The best first. The others are read through the kernel.
const READ_WITHOUT_KERNEL: [&str; 4] =
    ["tsc", "kvm-clock", "hyperv_clocksource_tsc_page", "arch_sys_counter"];

#[cfg(test)]
mod tests {
    use super::super::machine::made_of;
    use super::*;

    #[test]
    fn a_slow_clock_is_replaced_by_the_best_there_is() {
        let look_at = |current: &str, available: &str| {
            let current = (&*format!("{DIRECTORY}/current_clocksource"), current);
            let available = (&*format!("{DIRECTORY}/available_clocksource"), available);
            let (machine, _directory) = made_of(&[current, available]);
            look(&machine)
        };
        assert!(look_at("tsc\n", "tsc kvm-clock\n").findings.is_empty());
        assert!(look_at("kvm-clock\n", "tsc kvm-clock\n").findings.is_empty());
        let slow = look_at("hpet\n", "hpet kvm-clock tsc acpi_pm \n");
        assert_eq!(slow.whats(), [(Weight::Slow, "source hpet")]);
        assert!(slow.findings[0].mend.starts_with("echo tsc > /sys/"), "{slow:?}");
        assert!(look_at("hpet\n", "hpet acpi_pm\n").findings[0].mend.contains("tsc=reliable"));
        let (bare, _directory) = made_of(&[]);
        assert!(look(&bare).findings.is_empty());
    }
}
