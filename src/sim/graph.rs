//! A directed graph and its shortest cycle.
//!
//! Knows nothing of transactions but this: nodes from `paid` on are relays, and leaving one is free. So
//! a chain of relays (time, in `serializability`) counts as one edge, and the cycle found is the shortest
//! to explain.
#![forbid(unsafe_code)]

use std::collections::VecDeque;

pub(super) struct Graph<'e> {
    edges: &'e [Edge],
    /// Edges by the node they leave: those of node `n` are `leaving[first[n]..first[n + 1]]`.
    first: Vec<u32>,
    leaving: Vec<u32>,
    /// Nodes below cost one to leave; the others are relays.
    paid: u32,
}

#[derive(Clone, Copy)]
pub(super) struct Edge {
    pub from: u32,
    pub to: u32,
}

impl<'e> Graph<'e> {
    pub fn new(nodes: u32, paid: u32, edges: &'e [Edge]) -> Graph<'e> {
        let mut first = vec![0; nodes as usize + 1];
        for edge in edges {
            first[edge.from as usize + 1] += 1;
        }
        for node in 0..nodes as usize {
            first[node + 1] += first[node];
        }
        let mut next = first.clone();
        let mut leaving = vec![0; edges.len()];
        for (index, edge) in edges.iter().enumerate() {
            let place = &mut next[edge.from as usize];
            leaving[*place as usize] = index as u32;
            *place += 1;
        }
        Graph { edges, first, leaving, paid }
    }

    /// The edges of a shortest cycle, in order, the first leaving a node below `paid`; `None` when there
    /// is no cycle. The common case, no cycle, is linear; a cycle is searched for from every node left.
    pub fn shortest_cycle(&self) -> Option<Vec<u32>> {
        let knotted = self.knotted();
        let mut search = Search::new(self.first.len() - 1);
        let mut best: Option<Vec<u32>> = None;
        for start in (0..self.paid).filter(|node| knotted[*node as usize]) {
            let below = best.as_ref().map_or(u32::MAX, |cycle| self.cost(cycle));
            if below <= SHORTEST {
                break;
            }
            if let Some(cycle) = search.cycle_through(self, start, &knotted, below) {
                best = Some(cycle);
            }
        }
        best
    }

    /// The nodes that remain when those nothing leads to are taken away again and again: the cycles,
    /// and what they lead to.
    fn knotted(&self) -> Vec<bool> {
        let nodes = self.first.len() - 1;
        let mut arriving = vec![0_u32; nodes];
        for edge in self.edges {
            arriving[edge.to as usize] += 1;
        }
        let mut free: Vec<u32> = (0..nodes as u32).filter(|node| arriving[*node as usize] == 0).collect();
        while let Some(node) = free.pop() {
            for edge in self.leaving(node) {
                let to = self.edges[*edge as usize].to;
                arriving[to as usize] -= 1;
                if arriving[to as usize] == 0 {
                    free.push(to);
                }
            }
        }
        arriving.iter().map(|count| *count > 0).collect()
    }

    fn leaving(&self, node: u32) -> &[u32] {
        let node = node as usize;
        &self.leaving[self.first[node] as usize..self.first[node + 1] as usize]
    }

    fn cost(&self, cycle: &[u32]) -> u32 {
        cycle.iter().filter(|edge| self.edges[**edge as usize].from < self.paid).count() as u32
    }
}

/// Breadth-first search from one node after another, in which free edges go to the front of the queue.
struct Search {
    cost: Vec<u32>,
    /// The edge by which a node was reached at its cost.
    by: Vec<u32>,
    queue: VecDeque<(u32, u32)>,
}

impl Search {
    fn new(nodes: usize) -> Search {
        Search { cost: vec![u32::MAX; nodes], by: vec![0; nodes], queue: VecDeque::new() }
    }

    fn cycle_through(&mut self, graph: &Graph, start: u32, knotted: &[bool], below: u32) -> Option<Vec<u32>> {
        self.cost.fill(u32::MAX);
        self.queue.clear();
        self.queue.push_back((start, 0));
        while let Some((node, cost)) = self.queue.pop_front() {
            if node == start && cost > 0 {
                return Some(self.walk_back(graph, start));
            }
            if cost > self.cost[node as usize] {
                continue;
            }
            let price = u32::from(node < graph.paid);
            if cost + price >= below {
                continue;
            }
            for edge in graph.leaving(node) {
                let to = graph.edges[*edge as usize].to;
                if !knotted[to as usize] || self.cost[to as usize] <= cost + price {
                    continue;
                }
                self.cost[to as usize] = cost + price;
                self.by[to as usize] = *edge;
                match price {
                    0 => self.queue.push_front((to, cost)),
                    _ => self.queue.push_back((to, cost + price)),
                }
            }
        }
        None
    }

    fn walk_back(&self, graph: &Graph, start: u32) -> Vec<u32> {
        let mut cycle = Vec::new();
        let mut node = start;
        loop {
            let edge = self.by[node as usize];
            cycle.push(edge);
            node = graph.edges[edge as usize].from;
            if node == start {
                cycle.reverse();
                return cycle;
            }
        }
    }
}

/// No transaction has an edge to itself, so no cycle is shorter.
const SHORTEST: u32 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    fn shortest(nodes: u32, paid: u32, edges: &[(u32, u32)]) -> Option<Vec<(u32, u32)>> {
        let edges: Vec<Edge> = edges.iter().map(|(from, to)| Edge { from: *from, to: *to }).collect();
        let cycle = Graph::new(nodes, paid, &edges).shortest_cycle()?;
        Some(cycle.iter().map(|edge| (edges[*edge as usize].from, edges[*edge as usize].to)).collect())
    }

    /// A cycle of forty transactions explains nothing when there is one of three.
    #[test]
    fn the_shortest_of_several_cycles_is_found() {
        let long = [(0, 1), (1, 2), (2, 3), (3, 4), (4, 0)];
        let short = [(5, 6), (6, 7), (7, 5)];
        for edges in [[&long[..], &[(0, 5)], &short].concat(), [&short[..], &[(5, 0)], &long].concat()] {
            assert_eq!(shortest(8, 8, &edges), Some(short.to_vec()));
        }
        assert_eq!(shortest(8, 8, &long).map(|cycle| cycle.len()), Some(5));
    }

    /// However many answers lie between two transactions, real time is one edge to the reader.
    #[test]
    fn a_chain_of_relays_costs_nothing() {
        let relayed = [(0, 5), (5, 6), (6, 7), (7, 1), (1, 0)];
        let direct = [(2, 3), (3, 4), (4, 2)];
        let edges = [&direct[..], &[(2, 0)], &relayed].concat();
        assert_eq!(shortest(8, 5, &edges), Some(relayed.to_vec()));
    }

    /// What leads into a cycle, or out of one, is not part of it; and most histories have none.
    #[test]
    fn without_a_cycle_nothing_is_found() {
        assert_eq!(shortest(4, 4, &[(0, 1), (0, 2), (1, 3), (2, 3), (0, 3)]), None);
        assert_eq!(shortest(0, 0, &[]), None);
        let tailed = [(0, 1), (1, 2), (2, 1), (2, 3)];
        assert_eq!(shortest(4, 4, &tailed), Some(vec![(1, 2), (2, 1)]));
    }
}
