//! Numbers for the grants' rules.
//!
//! What stands keeps its number and its company as long as it may. A new rule gets a number of its own; where none is
//! left, it joins a rule that has one and can say both. Nothing is moved apart again when numbers become free: a shared
//! rule ends with the last of its grants.

use std::collections::{BTreeMap, BTreeSet};

use postern_core::id::GrantId;

use super::{Addresses, Ground, Placed, RULE_LIMIT, obstacle};
use crate::plan::{
    rule::{Role, allow_name_of, grant_of_name},
    share::join,
    wanted::Wanted,
};

/// A rule to be.
struct Slot {
    /// What it says.
    wanted: Wanted,
    /// The rules of grants that it says.
    pieces: Vec<Wanted>,
    priority: u16,
}

/// The rules to be, by name.
#[derive(Default)]
struct Slots {
    by_name: BTreeMap<String, Slot>,
    /// The addresses of everything in the NSG.
    addresses: Addresses,
    /// How many more rules the NSG holds.
    room: usize,
}

impl Slots {
    fn put(&mut self, slot: Slot) {
        self.addresses += Addresses::of(&slot.wanted);
        self.room = self.room.saturating_sub(1);
        self.by_name.insert(slot.wanted.name.clone(), slot);
    }

    fn take(&mut self, name: &str) -> Option<Slot> {
        let slot = self.by_name.remove(name)?;
        self.addresses -= Addresses::of(&slot.wanted);
        self.room += 1;
        Some(slot)
    }
}

impl Ground<'_> {
    pub(super) fn place_allows(&mut self, mut allowed: BTreeMap<GrantId, Vec<Wanted>>) {
        allowed.retain(|grant, rules| {
            let namesake = rules.iter().find_map(|wanted| self.namesake(wanted));
            let free = namesake.is_none();
            self.obstacles
                .extend(namesake.map(|message| obstacle("foreign_rule_in_the_way", message, Some(*grant))));
            free
        });
        let mut slots = self.slots();
        let mut seated: BTreeSet<String> = BTreeSet::new();
        let mut homeless = Vec::new();
        // Those that may stay where they are keep their numbers before anybody looks for one.
        for (wanted, pieces) in self.companies(&allowed) {
            let span = self.span(&wanted);
            match self.held(&wanted) {
                Some(priority)
                    if (span.first..=span.last).contains(&priority) && self.used.insert(priority) =>
                {
                    seated.extend(pieces.iter().map(|piece| piece.name.clone()));
                    slots.put(Slot {
                        wanted,
                        pieces,
                        priority,
                    });
                }
                _ => homeless.push((wanted, pieces)),
            }
        }
        for (wanted, pieces) in homeless {
            let span = self.span(&wanted);
            if slots.room > 0
                && let Some(priority) = self.largest_free(span.first, span.last, &BTreeSet::new())
            {
                self.used.insert(priority);
                seated.extend(pieces.iter().map(|piece| piece.name.clone()));
                slots.put(Slot {
                    wanted,
                    pieces,
                    priority,
                });
            }
        }
        for (grant, rules) in allowed {
            let refused = rules
                .into_iter()
                .filter(|piece| !seated.contains(&piece.name))
                .find_map(|piece| self.seat(&mut slots, piece).err());
            if let Some((code, message)) = refused {
                self.evict(&mut slots, grant);
                self.obstacles.push(obstacle(code, message, Some(grant)));
            }
        }
        self.placed.extend(slots.by_name.into_values().map(|slot| Placed {
            wanted: slot.wanted,
            priority: slot.priority,
            pieces: slot.pieces,
        }));
    }

    fn slots(&self) -> Slots {
        let others = self
            .observed
            .rules
            .iter()
            .filter(|rule| rule.role(&self.desired.installation).is_none())
            .count();
        let mut addresses = self.foreign_addresses();
        for placed in &self.placed {
            addresses += Addresses::of(&placed.wanted);
        }
        Slots {
            addresses,
            room: RULE_LIMIT.saturating_sub(others + self.placed.len()),
            ..Slots::default()
        }
    }

    /// The rules that stand, as far as they are still wanted, in the order of their names: each with the grants that
    /// it names and whose rules it can say together.
    fn companies(&self, allowed: &BTreeMap<GrantId, Vec<Wanted>>) -> Vec<(Wanted, Vec<Wanted>)> {
        let installation = &self.desired.installation;
        let pieces: BTreeMap<&str, &Wanted> = allowed
            .values()
            .flatten()
            .map(|piece| (piece.name.as_str(), piece))
            .collect();
        let mut standing: BTreeMap<String, Vec<GrantId>> = BTreeMap::new();
        for rule in &self.observed.rules {
            if let Some(Role::Grants(grants)) = rule.role(installation) {
                standing.insert(rule.rule.name.to_ascii_lowercase(), grants);
            }
        }
        let mut taken: BTreeSet<&str> = BTreeSet::new();
        let mut companies = Vec::new();
        for (name, grants) in &standing {
            let Some((_, suffix)) = grant_of_name(installation, name) else {
                continue;
            };
            // The grant whose name it is comes first: no other rule can have that name.
            let own = pieces.get(name.as_str()).copied();
            let guests = grants
                .iter()
                .filter_map(|grant| {
                    let named = allow_name_of(installation, *grant, suffix);
                    pieces.get(named.as_str()).copied()
                })
                .filter(|piece| !standing.contains_key(&piece.name));
            let mut company: Vec<Wanted> = Vec::new();
            let mut said = None;
            for piece in own.into_iter().chain(guests) {
                if taken.contains(piece.name.as_str()) {
                    continue;
                }
                company.push(piece.clone());
                match join(name, &company) {
                    Some(joined) => {
                        taken.insert(&piece.name);
                        said = Some(joined);
                    }
                    None => {
                        company.pop();
                    }
                }
            }
            companies.extend(said.map(|wanted| (wanted, company)));
        }
        companies
    }

    /// Gives the grant's rule a number of its own, or lets it join another.
    fn seat(&mut self, slots: &mut Slots, piece: Wanted) -> Result<(), (&'static str, String)> {
        let span = self.span(&piece);
        let mut addresses = slots.addresses;
        addresses += Addresses::of(&piece);
        let over = addresses.over(&self.observed.point);
        let number = self.largest_free(span.first, span.last, &BTreeSet::new());
        if let Some(priority) = number.filter(|_| over.is_none() && slots.room > 0) {
            self.used.insert(priority);
            slots.put(Slot {
                wanted: piece.clone(),
                pieces: vec![piece],
                priority,
            });
            return Ok(());
        }
        if self.join_any(slots, &piece) {
            return Ok(());
        }
        Err(match over {
            Some(message) => ("addresses_per_group", message),
            None if slots.room == 0 => (
                "rules_per_group",
                format!("{} holds {RULE_LIMIT} rules already", self.observed.point),
            ),
            None => {
                let (code, message) = span.refusal();
                (
                    code,
                    format!("{message}, and no rule of ours that has one can let the grant in too"),
                )
            }
        })
    }

    fn join_any(&self, slots: &mut Slots, piece: &Wanted) -> bool {
        let found = slots.by_name.values().find_map(|slot| {
            let one = &slot.wanted;
            let comparable = one.protocol == piece.protocol
                && one.ports == piece.ports
                && (one.destinations == piece.destinations || one.sources == piece.sources);
            if !comparable {
                return None;
            }
            let company: Vec<Wanted> = slot.pieces.iter().chain([piece]).cloned().collect();
            let joined = join(&one.name, &company)?;
            let span = self.span(&joined);
            let mut addresses = slots.addresses;
            addresses -= Addresses::of(one);
            addresses += Addresses::of(&joined);
            let fits = (span.first..=span.last).contains(&slot.priority)
                && addresses.over(&self.observed.point).is_none();
            fits.then_some((one.name.clone(), joined, company))
        });
        let Some((name, joined, company)) = found else {
            return false;
        };
        if let Some(slot) = slots.take(&name) {
            slots.put(Slot {
                wanted: joined,
                pieces: company,
                ..slot
            });
        }
        true
    }

    /// Takes the grant out of every rule: a part of what it wants is not what it wants.
    fn evict(&mut self, slots: &mut Slots, grant: GrantId) {
        let held: Vec<String> = slots
            .by_name
            .values()
            .filter(|slot| slot.wanted.label.grants().contains(&grant))
            .map(|slot| slot.wanted.name.clone())
            .collect();
        for name in held {
            let Some(mut slot) = slots.take(&name) else {
                continue;
            };
            slot.pieces.retain(|piece| !piece.label.grants().contains(&grant));
            match join(&name, &slot.pieces) {
                Some(wanted) => slots.put(Slot { wanted, ..slot }),
                None => {
                    self.used.remove(&slot.priority);
                }
            }
        }
    }
}
