//! Resource groups: put and delete, the latter with everything in them.

use super::body::Body;
use super::id::check_group_name;
use super::operation::Work;
use super::refusal::ArmError;
use super::state::{Group, Provisioning, Touch, group_key};
use super::view;
use super::write::{Desk, Written, group_missing};

impl Desk<'_> {
    /// Creates or replaces a resource group. Takes no time.
    pub(super) fn put_group(
        &mut self,
        subscription: &str,
        name: &str,
        body: Body,
    ) -> Result<Written, ArmError> {
        let subscription = self.known_subscription(subscription)?;
        check_group_name(name)?;
        let Some(location) = body.location else {
            let text = "The location property is required for this definition.";
            return Err(ArmError::new(400, "LocationRequired", text));
        };
        let key = group_key(&subscription, name);
        let existing = self.state.groups.get(&key);
        if let Some(existing) = existing.filter(|existing| existing.location != location) {
            let text = format!(
                "Invalid resource group location '{location}'. The Resource group already exists in location '{}'.",
                existing.location
            );
            return Err(ArmError::new(409, "InvalidResourceGroupLocation", text));
        }
        let created = existing.is_none();
        let name = existing.map_or_else(|| name.to_owned(), |existing| existing.name.clone());
        let touches = vec![Touch::Group(key.clone())];
        let before = self.state.truth(&touches);
        let group = Group {
            subscription,
            name,
            location,
            tags: body.tags,
        };
        let body = view::group(&group);
        self.state.groups.insert(key, group);
        self.launch(touches, Work::Nothing, before, None);
        Ok(Written::Put {
            created,
            body,
            operation: None,
        })
    }

    /// Deletes a resource group with everything in it.
    pub(super) fn delete_group(&mut self, subscription: &str, name: &str) -> Result<Written, ArmError> {
        self.known_subscription(subscription)?;
        let key = group_key(subscription, name);
        let Some(group) = self.state.groups.get(&key) else {
            return Err(group_missing(name));
        };
        let location = group.location.clone();
        let within = format!("{key}/");
        let mut touches: Vec<Touch> = self
            .state
            .resources
            .keys()
            .filter(|key| key.starts_with(&within))
            .cloned()
            .map(Touch::All)
            .collect();
        for touch in &touches {
            if let Some(resource) = self.state.resources.get(touch.key()) {
                self.free(resource, None)?;
            }
        }
        touches.push(Touch::Group(key));
        let before = self.state.truth(&touches);
        for touch in &touches {
            if let Some(resource) = self.state.resources.get_mut(touch.key()) {
                resource.provisioning = Provisioning::Deleting;
            }
        }
        let operation = self.launch(touches, Work::Remove, before, None);
        Ok(Written::Accepted { operation, location })
    }
}
