//! Builds machines and networks in the process, for tests and the demo, through the same checks as the wire.

use http::HeaderMap;
use serde_json::{Value, json};

use super::body::Body;
use super::id::Id;
use super::refusal::ArmError;
use super::route::Target;
use super::serve::Arm;
use super::state::Power;
use super::write::{Origin, Written, not_found};
use super::{ArmHandle, view};
use crate::fault::Faults;
use std::sync::Arc;

/// A builder that puts resources into one resource group. What it writes is in force at once, whatever the
/// operations' duration and whatever completions fail, and stands in the truth log under the caller `fleet`.
#[derive(Clone)]
pub struct Fleet {
    arm: Arc<Arm>,
    subscription: String,
    group: String,
    location: String,
}

impl std::fmt::Debug for Fleet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fleet")
            .field("subscription", &self.subscription)
            .field("group", &self.group)
            .finish_non_exhaustive()
    }
}

/// The ids of one machine with its own network parts, as [`Fleet::machine`] makes them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FleetMachine {
    /// The virtual machine.
    pub machine: String,
    /// Its interface.
    pub interface: String,
    /// The NSG of the interface.
    pub security_group: String,
    /// Its public address.
    pub public_address: String,
    /// The interface's private address.
    pub private_address: String,
}

impl Fleet {
    pub(super) fn new(arm: Arc<Arm>, subscription: String) -> Self {
        Self {
            arm,
            subscription,
            group: "fleet".to_owned(),
            location: "westeurope".to_owned(),
        }
    }

    /// A builder for another resource group; [`Fleet::group`] creates it.
    #[must_use]
    pub fn in_group(&self, group: &str) -> Self {
        Self {
            group: group.to_owned(),
            ..self.clone()
        }
    }

    /// A builder for another subscription of the simulator.
    #[must_use]
    pub fn in_subscription(&self, subscription: &str) -> Self {
        Self {
            subscription: subscription.to_owned(),
            ..self.clone()
        }
    }

    /// A builder for another region.
    #[must_use]
    pub fn in_location(&self, location: &str) -> Self {
        Self {
            location: location.to_owned(),
            ..self.clone()
        }
    }

    /// The id of something in the group: `path` is `Microsoft.Network/networkSecurityGroups/web`.
    pub fn id(&self, path: &str) -> String {
        format!(
            "/subscriptions/{}/resourceGroups/{}/providers/{path}",
            self.subscription, self.group
        )
    }

    /// Creates the resource group, or finds it there.
    pub fn group(&self) -> Result<String, ArmError> {
        let mut body = Body::from_value(json!({ "location": self.location }))?;
        self.with("ResourceGroups.CreateOrUpdate", |desk| {
            if let Some(there) = desk.state.group(&self.subscription, &self.group) {
                body.location = Some(there.location.clone());
            }
            desk.put_group(&self.subscription, &self.group, body)
        })
        .map(|_| {
            format!(
                "/subscriptions/{}/resourceGroups/{}",
                self.subscription, self.group
            )
        })
    }

    /// Puts a resource or a part of one (security rule, subnet, route, rule collection group) with the body that the wire would take.
    pub fn put(&self, id: &str, body: Value) -> Result<Value, ArmError> {
        let id = parse(id)?;
        let body = Body::from_value(body)?;
        let operation = target(&id).operation(&http::Method::PUT);
        let written = self.with(&operation, |desk| match &id.child {
            None => desk.put(&id, &body),
            Some(_) => desk.put_child(&id, &body),
        })?;
        match written {
            Written::Put { body, .. } => Ok(body),
            Written::Accepted { .. } | Written::Absent => Err(not_found(&id)),
        }
    }

    /// Deletes a resource, a security rule or a subnet; one that is not there is no error.
    pub fn delete(&self, id: &str) -> Result<(), ArmError> {
        let id = parse(id)?;
        self.with(&target(&id).operation(&http::Method::DELETE), |desk| {
            match &id.child {
                None => desk.delete(&id),
                Some(_) => desk.delete_child(&id),
            }
        })
        .map(|_| ())
    }

    /// A resource, or a part of one, as a `GET` shows it.
    pub fn get(&self, id: &str) -> Result<Value, ArmError> {
        let id = parse(id)?;
        let now = self.arm.clock.now();
        let mut inner = self.arm.lock();
        inner
            .state
            .settle(now, &self.arm.ids, &self.arm.instruments.truth);
        let references = inner.state.back_references();
        let resource = inner.state.get(&id).ok_or_else(|| not_found(&id))?;
        if id.child.is_some() {
            return super::read::child_shown(&inner.state, resource, &id).ok_or_else(|| not_found(&id));
        }
        Ok(view::resource(resource, &references))
    }

    /// A virtual network.
    pub fn network(&self, name: &str, prefix: &str) -> Result<String, ArmError> {
        let id = self.id(&format!("Microsoft.Network/virtualNetworks/{name}"));
        let space = json!({ "addressPrefixes": [prefix] });
        self.create(
            id,
            json!({ "location": self.location, "properties": { "addressSpace": space } }),
        )
    }

    /// A subnet, behind an NSG where one is given.
    pub fn subnet(
        &self,
        network: &str,
        name: &str,
        prefix: &str,
        group: Option<&str>,
    ) -> Result<String, ArmError> {
        let mut properties = json!({ "addressPrefix": prefix });
        link(&mut properties, "networkSecurityGroup", group);
        self.create(
            format!("{network}/subnets/{name}"),
            json!({ "properties": properties }),
        )
    }

    /// An NSG with the given security rules, each `{"name", "properties"}`.
    pub fn security_group(&self, name: &str, rules: &[Value]) -> Result<String, ArmError> {
        let id = self.id(&format!("Microsoft.Network/networkSecurityGroups/{name}"));
        self.create(
            id,
            json!({ "location": self.location, "properties": { "securityRules": rules } }),
        )
    }

    /// A public address.
    pub fn public_address(&self, name: &str) -> Result<String, ArmError> {
        let id = self.id(&format!("Microsoft.Network/publicIPAddresses/{name}"));
        let properties = json!({ "publicIPAllocationMethod": "Static" });
        self.create(
            id,
            json!({ "location": self.location, "sku": { "name": "Standard" }, "properties": properties }),
        )
    }

    /// An interface with one IP configuration.
    pub fn interface(
        &self,
        name: &str,
        subnet: &str,
        group: Option<&str>,
        public_address: Option<&str>,
    ) -> Result<String, ArmError> {
        let mut address = json!({ "subnet": { "id": subnet } });
        link(&mut address, "publicIPAddress", public_address);
        let mut properties = json!({ "ipConfigurations": [{ "name": "ipconfig1", "properties": address }] });
        link(&mut properties, "networkSecurityGroup", group);
        let id = self.id(&format!("Microsoft.Network/networkInterfaces/{name}"));
        self.create(id, json!({ "location": self.location, "properties": properties }))
    }

    /// A route table that sends everything to one address, such as a firewall's. Link it with [`Fleet::put`] of the
    /// subnet.
    pub fn default_route(&self, name: &str, next_hop: &str) -> Result<String, ArmError> {
        let route = json!({
            "addressPrefix": "0.0.0.0/0",
            "nextHopType": "VirtualAppliance",
            "nextHopIpAddress": next_hop,
        });
        let routes = json!([{ "name": "out", "properties": route }]);
        let id = self.id(&format!("Microsoft.Network/routeTables/{name}"));
        self.create(
            id,
            json!({ "location": self.location, "properties": { "routes": routes } }),
        )
    }

    /// A firewall in an `AzureFirewallSubnet`, with a public address named after it, and its own rules or a
    /// policy's; `properties` has the rule collections or `firewallPolicy`.
    pub fn firewall(&self, name: &str, subnet: &str, properties: Value) -> Result<String, ArmError> {
        let public_address = self.public_address(&format!("{name}-ip"))?;
        let mut properties = properties;
        if let Some(properties) = properties.as_object_mut() {
            let address = json!({ "subnet": { "id": subnet }, "publicIPAddress": { "id": public_address } });
            let addresses = json!([{ "name": "configuration", "properties": address }]);
            properties.insert("ipConfigurations".to_owned(), addresses);
        }
        let id = self.id(&format!("Microsoft.Network/azureFirewalls/{name}"));
        self.create(id, json!({ "location": self.location, "properties": properties }))
    }

    /// A firewall policy without rules.
    pub fn firewall_policy(&self, name: &str) -> Result<String, ArmError> {
        let id = self.id(&format!("Microsoft.Network/firewallPolicies/{name}"));
        self.create(id, json!({ "location": self.location }))
    }

    /// A running Linux machine on the given interfaces, the first of them primary.
    pub fn virtual_machine(&self, name: &str, interfaces: &[&str], tags: &Value) -> Result<String, ArmError> {
        let interfaces: Vec<Value> = interfaces
            .iter()
            .enumerate()
            .map(|(index, id)| json!({ "id": id, "properties": { "primary": index == 0 } }))
            .collect();
        let id = self.id(&format!("Microsoft.Compute/virtualMachines/{name}"));
        let body = json!({
            "location": self.location,
            "tags": tags,
            "properties": {
                "hardwareProfile": { "vmSize": "Standard_B2s" },
                "storageProfile": { "osDisk": { "osType": "Linux", "createOption": "FromImage" } },
                "osProfile": { "computerName": name, "adminUsername": "azureuser" },
                "networkProfile": { "networkInterfaces": interfaces },
            },
        });
        self.create(id, body)
    }

    /// Starts a machine (`start`), shuts it down (`powerOff`), or gives its hardware back too (`deallocate`).
    pub fn power(&self, machine: &str, action: &str) -> Result<(), ArmError> {
        let id = parse(machine)?;
        let to = match action {
            "start" => Power::Running,
            "powerOff" => Power::Stopped,
            "deallocate" => Power::Deallocated,
            _ => {
                return Err(ArmError::new(
                    400,
                    "InvalidAction",
                    format!("`{action}` is no action here."),
                ));
            }
        };
        let operation = Target::Action(id.clone(), action.to_lowercase()).operation(&http::Method::POST);
        self.with(&operation, |desk| desk.power(&id, to)).map(|_| ())
    }

    /// A machine with an interface, an NSG with the given rules and a public address of its own, named after it.
    pub fn machine(
        &self,
        name: &str,
        subnet: &str,
        rules: &[Value],
        tags: &Value,
    ) -> Result<FleetMachine, ArmError> {
        let security_group = self.security_group(&format!("{name}-nsg"), rules)?;
        let public_address = self.public_address(&format!("{name}-ip"))?;
        let interface = self.interface(
            &format!("{name}-nic"),
            subnet,
            Some(&security_group),
            Some(&public_address),
        )?;
        let machine = self.virtual_machine(name, &[&interface], tags)?;
        let shown = self.get(&interface)?;
        let private_address = shown
            .pointer("/properties/ipConfigurations/0/properties/privateIPAddress")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned();
        Ok(FleetMachine {
            machine,
            interface,
            security_group,
            public_address,
            private_address,
        })
    }

    fn create(&self, id: String, body: Value) -> Result<String, ArmError> {
        self.put(&id, body)?;
        Ok(id)
    }

    fn with<T>(
        &self,
        operation: &str,
        act: impl FnOnce(&mut super::write::Desk<'_>) -> Result<T, ArmError>,
    ) -> Result<T, ArmError> {
        let now = self.arm.clock.now();
        let request_id = self.arm.ids.uuid().to_string();
        let headers = HeaderMap::new();
        // What is in force at once does not fail afterwards either.
        let completions = Faults::default();
        let mut inner = self.arm.lock();
        inner
            .state
            .settle(now, &self.arm.ids, &self.arm.instruments.truth);
        let origin = Origin {
            now,
            operation,
            request_id: &request_id,
            caller: "fleet",
            base: "",
            headers: &headers,
        };
        let mut desk = self.arm.desk(&mut inner, origin);
        desk.duration = chrono::TimeDelta::zero();
        desk.firewall_duration = chrono::TimeDelta::zero();
        desk.completions = &completions;
        act(&mut desk)
    }
}

impl ArmHandle {
    /// Builds machines and networks in the first subscription, group `fleet`, region `westeurope`. Create the
    /// group first: [`Fleet::group`].
    pub fn fleet(&self) -> Fleet {
        let subscription = self
            .arm
            .lock()
            .state
            .subscriptions
            .first()
            .map(|(id, _)| id.clone())
            .unwrap_or_default();
        Fleet::new(Arc::clone(&self.arm), subscription)
    }
}

fn parse(id: &str) -> Result<Id, ArmError> {
    Id::parse(id).ok_or_else(|| {
        ArmError::new(
            400,
            "InvalidResourceId",
            format!("`{id}` is not an id of a known kind."),
        )
    })
}

fn target(id: &Id) -> Target {
    if id.child.is_some() {
        Target::Child(id.clone())
    } else {
        Target::Resource(id.clone())
    }
}

fn link(properties: &mut Value, member: &str, id: Option<&str>) {
    if let (Some(id), Some(properties)) = (id, properties.as_object_mut()) {
        properties.insert(member.to_owned(), json!({ "id": id }));
    }
}

/// The body of an inbound security rule, as an NSG's list or a put takes it: `access` is `Allow` or `Deny`,
/// `source` an address, a range, `*` or a service tag, `port` a port, a range or `*`; TCP, any destination.
pub fn inbound(name: &str, priority: u16, access: &str, source: &str, port: &str) -> Value {
    json!({
        "name": name,
        "properties": {
            "priority": priority,
            "direction": "Inbound",
            "access": access,
            "protocol": "Tcp",
            "sourceAddressPrefix": source,
            "sourcePortRange": "*",
            "destinationAddressPrefix": "*",
            "destinationPortRange": port,
        },
    })
}
