//! Writes a configuration as the cluster file that means it: what `--write-config` prints.
//!
//! Every key is written, defaults too, so that the file goes on meaning the same when a default changes.
#![forbid(unsafe_code)]

use std::fmt::{self, Write};
use std::path::Path;

use super::{Config, Link, Node, Shard, Table, format_duration_ns, format_size_bytes};

impl Config {
    /// `Config::parse` reads it back to an equal configuration.
    pub fn to_toml(&self) -> String {
        let mut text = String::new();
        self.write(&mut text).expect("writing to a string cannot fail");
        text
    }

    fn write(&self, out: &mut String) -> fmt::Result {
        let duration = |ns| quoted(&format_duration_ns(ns));
        writeln!(out, "[cluster]")?;
        writeln!(out, "name = {}", quoted(&self.name))?;
        writeln!(out, "durability = {}", quoted(&self.durability.to_string()))?;
        match &self.key_file {
            Some(key_file) => writeln!(out, "key_file = {}", quoted_path(key_file))?,
            None => writeln!(out, "plaintext = true")?,
        }
        writeln!(out, "election_timeout = {}", duration(self.election_timeout_ns))?;
        writeln!(out, "heartbeat_interval = {}", duration(self.heartbeat_interval_ns))?;
        writeln!(out, "exchange_interval = {}", duration(self.exchange_interval_ns))?;
        writeln!(out, "batch = {}", quoted(&format_size_bytes(self.batch_bytes as u64)))?;
        writeln!(out, "batch_delay = {}", duration(self.batch_delay_ns))?;
        writeln!(out, "max_speculation = {}", duration(self.max_speculation_ns))?;
        writeln!(out, "spin = {}", duration(self.spin_ns))?;
        writeln!(out, "log = {}", quoted(&format_size_bytes(self.log_bytes)))?;
        self.nodes.iter().try_for_each(|node| write_node(out, node))?;
        self.shards.iter().try_for_each(|shard| self.write_shard(out, shard))?;
        self.tables.iter().try_for_each(|table| write_table(out, table))?;
        self.links.iter().try_for_each(|link| write_link(out, link))
    }

    fn write_shard(&self, out: &mut String, shard: &Shard) -> fmt::Result {
        let names = shard.replicas.iter().map(|node| quoted(&self.nodes[usize::from(node.0)].name));
        let names: Vec<String> = names.collect();
        writeln!(out, "\n[[shard]]\nreplicas = [{}]", names.join(", "))?;
        writeln!(out, "partitions = {}", shard.partitions)
    }
}

fn write_node(out: &mut String, node: &Node) -> fmt::Result {
    writeln!(out, "\n[[node]]")?;
    writeln!(out, "name = {}", quoted(&node.name))?;
    writeln!(out, "zone = {}", quoted(&node.zone))?;
    writeln!(out, "listen = {}", quoted(&node.listen.to_string()))?;
    writeln!(out, "cores = {}", node.cores)?;
    writeln!(out, "nic = {}", quoted(&node.nic.to_string()))?;
    if let Some(subnet) = node.subnet {
        writeln!(out, "subnet = {}", quoted(&subnet.to_string()))?;
    }
    if let Some(gateway) = node.gateway {
        writeln!(out, "gateway = {}", quoted(&gateway.to_string()))?;
    }
    writeln!(out, "poll = {}", quoted(&node.poll.to_string()))?;
    writeln!(out, "data = {}", quoted_path(&node.data))?;
    if let Some(resp) = node.resp {
        writeln!(out, "resp = {}", quoted(&resp.to_string()))?;
    }
    if let Some(http) = node.http {
        writeln!(out, "http = {}", quoted(&http.to_string()))?;
    }
    Ok(())
}

fn write_table(out: &mut String, table: &Table) -> fmt::Result {
    writeln!(out, "\n[[table]]\nname = {}", quoted(&table.name))?;
    writeln!(out, "routing = {}", quoted(&table.routing.to_string()))
}

fn write_link(out: &mut String, link: &Link) -> fmt::Result {
    let [a, b] = link.zones.each_ref().map(|zone| quoted(zone));
    writeln!(out, "\n[[link]]\nbetween = [{a}, {b}]")?;
    writeln!(out, "delay = {}", quoted(&format_duration_ns(link.spec.delay_ns)))?;
    writeln!(out, "jitter = {}", quoted(&format_duration_ns(link.spec.jitter_ns)))?;
    // `{:?}` always writes a point or an exponent, which TOML wants of a float.
    writeln!(out, "loss = {:?}", link.spec.loss)
}

fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

/// A path that is not UTF-8 was refused when the configuration was made, so nothing is lost here.
fn quoted_path(path: &Path) -> String {
    quoted(&path.to_string_lossy())
}
