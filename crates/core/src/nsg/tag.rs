//! What addresses a name in an NSG rule may stand for.
//!
//! Microsoft publishes the addresses behind a service tag and changes them every week; they are not known here. What
//! is known is which tags stand for public addresses of a service, and so never for a private one.
//!
//! Source: Azure documentation, "Virtual network service tags", "Available service tags".

use std::net::IpAddr;

use ipnet::IpNet;

/// A name in a rule's source or destination. ARM compares them without regard to case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tag {
    /// `*`: every address.
    Any,
    /// What is outside of the virtual network and reached through the internet.
    Internet,
    /// The network, those that are connected to it, and prefixes of its route tables.
    VirtualNetwork,
    /// Where the platform's probes come from: 168.63.129.16, `fe80::1234:5678:9abc`.
    LoadBalancer,
    /// A service of the platform at a fixed address, which sends nothing to a port of a machine by itself.
    Platform(IpAddr),
    /// Public addresses of a service.
    Service,
    /// A name that is not in the table: it may stand for anything.
    Unknown,
}

/// Tags that stand for public addresses of a service. Each may be followed by a region or a part
/// (`Storage.WestEurope`, `AzureFrontDoor.Backend`).
const SERVICES: [&str; 92] = [
    "ActionGroup",
    "ApiManagement",
    "ApplicationInsightsAvailability",
    "AppConfiguration",
    "AppService",
    "AppServiceManagement",
    "AutonomousDevelopmentPlatform",
    "AzureActiveDirectory",
    "AzureActiveDirectoryDomainServices",
    "AzureAdvancedThreatProtection",
    "AzureArcInfrastructure",
    "AzureAttestation",
    "AzureBackup",
    "AzureBotService",
    "AzureCloud",
    "AzureCognitiveSearch",
    "AzureConnectors",
    "AzureContainerAppsService",
    "AzureContainerRegistry",
    "AzureCosmosDB",
    "AzureDataExplorerManagement",
    "AzureDataLake",
    "AzureDatabricks",
    "AzureDevOps",
    "AzureDevSpaces",
    "AzureDeviceUpdate",
    "AzureDigitalTwins",
    "AzureEventGrid",
    "AzureFrontDoor",
    "AzureHealthcareAPIs",
    "AzureInformationProtection",
    "AzureIoTHub",
    "AzureKeyVault",
    "AzureMachineLearning",
    "AzureManagedGrafana",
    "AzureMonitor",
    "AzureOpenDatasets",
    "AzurePlatformLKM",
    "AzureResourceManager",
    "AzureSentinel",
    "AzureSignalR",
    "AzureSiteRecovery",
    "AzureSphere",
    "AzureSpringCloud",
    "AzureStack",
    "AzureTrafficManager",
    "AzureUpdateDelivery",
    "AzureWebPubSub",
    "BatchNodeManagement",
    "ChaosStudio",
    "CognitiveServicesFrontend",
    "CognitiveServicesManagement",
    "DataFactory",
    "DataFactoryManagement",
    "Dynamics365BusinessCentral",
    "Dynamics365ForMarketingEmail",
    "EOPExternalPublishedIPs",
    "EventHub",
    "GatewayManager",
    "GenevaActions",
    "GuestAndHybridManagement",
    "HDInsight",
    "KustoAnalytics",
    "LogicApps",
    "LogicAppsManagement",
    "M365ManagementActivityApi",
    "M365ManagementActivityApiWebhook",
    "MicrosoftAzureFluidRelay",
    "MicrosoftCloudAppSecurity",
    "MicrosoftContainerRegistry",
    "MicrosoftDefenderForEndpoint",
    "MicrosoftPurviewPolicyDistribution",
    "PowerBI",
    "PowerPlatformInfra",
    "PowerPlatformPlex",
    "PowerQueryOnline",
    "SCCservice",
    "Scuba",
    "SecurityCopilot",
    "SerialConsole",
    "ServiceBus",
    "ServiceFabric",
    "Sql",
    "SqlManagement",
    "Storage",
    "StorageMover",
    "StorageSyncService",
    "VideoIndexer",
    "VirtualDesktop",
    "WindowsAdminCenter",
    "WindowsVirtualDesktop",
    "OneDsCollector",
];

impl Tag {
    /// Reads a name as it stands in a rule, the classic spellings included.
    pub fn read(name: &str) -> Self {
        let is = |words: &[&str]| words.iter().any(|word| name.eq_ignore_ascii_case(word));
        if name == "*" || is(&["Any"]) {
            Self::Any
        } else if is(&["Internet"]) {
            Self::Internet
        } else if is(&["VirtualNetwork", "VIRTUAL_NETWORK"]) {
            Self::VirtualNetwork
        } else if is(&["AzureLoadBalancer", "AZURE_LOADBALANCER"]) {
            Self::LoadBalancer
        } else if is(&["AzurePlatformDNS"]) {
            Self::Platform(IpAddr::from([168, 63, 129, 16]))
        } else if is(&["AzurePlatformIMDS"]) {
            Self::Platform(IpAddr::from([169, 254, 169, 254]))
        } else {
            let service = name.split_once('.').map_or(name, |(service, _)| service);
            if SERVICES.iter().any(|known| known.eq_ignore_ascii_case(service)) {
                Self::Service
            } else {
                Self::Unknown
            }
        }
    }

    /// Whether packets from the network may be of the tag, as far as is known without the virtual network.
    pub fn may_be_source(self, net: &IpNet) -> bool {
        match self {
            Self::Any | Self::VirtualNetwork | Self::Unknown => true,
            Self::Internet | Self::Service => !is_private(net),
            Self::LoadBalancer => PROBES.iter().any(|probe| net.contains(probe)),
            Self::Platform(address) => net.contains(&address),
        }
    }

    /// Whether packets to a machine's private address may be of the tag. An NSG sees the private address, also of
    /// packets that were sent to a public one.
    pub fn may_be_destination(self, address: IpAddr) -> bool {
        match self {
            Self::Any | Self::VirtualNetwork | Self::Unknown => true,
            Self::Internet | Self::LoadBalancer | Self::Platform(_) => false,
            Self::Service => !is_private(&IpNet::from(address)),
        }
    }
}

/// Where Azure's load balancer probes come from.
///
/// Sources: Azure documentation, "What is IP address 168.63.129.16?", "Azure Load Balancer health probes".
pub const PROBES: [IpAddr; 2] = [
    IpAddr::V4(std::net::Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V6(std::net::Ipv6Addr::new(
        0xfe80, 0, 0, 0, 0, 0x1234, 0x5678, 0x9abc,
    )),
];

/// Networks whose addresses are never the internet's, as RFC 1918, 6598, 4193, 3927 and 4291 set them aside.
pub fn private_networks() -> impl Iterator<Item = IpNet> {
    let v4 = [
        ([10, 0, 0, 0], 8),
        ([172, 16, 0, 0], 12),
        ([192, 168, 0, 0], 16),
        ([100, 64, 0, 0], 10),
        ([169, 254, 0, 0], 16),
    ];
    let v6 = [
        ([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7),
        ([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10),
    ];
    v4.into_iter()
        .map(|(address, prefix): ([u8; 4], u8)| (IpAddr::from(address), prefix))
        .chain(
            v6.into_iter()
                .map(|(address, prefix): ([u16; 8], u8)| (IpAddr::from(address), prefix)),
        )
        .filter_map(|(address, prefix)| IpNet::new(address, prefix).ok())
}

fn is_private(net: &IpNet) -> bool {
    private_networks().any(|private| private.contains(net))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_read_in_any_case_with_its_region() {
        for (name, tag) in [
            ("*", Tag::Any),
            ("internet", Tag::Internet),
            ("VIRTUALNETWORK", Tag::VirtualNetwork),
            ("AzureLoadBalancer", Tag::LoadBalancer),
            ("Storage", Tag::Service),
            ("storage.westeurope", Tag::Service),
            ("AzureFrontDoor.Backend", Tag::Service),
            ("AzureDevOps", Tag::Service),
            ("GatewayManager", Tag::Service),
            ("StorageX", Tag::Unknown),
            ("FutureService", Tag::Unknown),
        ] {
            assert_eq!(Tag::read(name), tag, "{name}");
        }
    }

    #[test]
    fn a_services_tag_is_never_a_private_address_and_an_unknown_one_may_be() {
        let (private, public): (IpNet, IpNet) =
            ("10.0.0.0/24".parse().unwrap(), "203.0.113.7/32".parse().unwrap());
        assert!(!Tag::Service.may_be_source(&private) && Tag::Service.may_be_source(&public));
        assert!(Tag::Service.may_be_source(&"0.0.0.0/0".parse().unwrap()));
        assert!(Tag::Unknown.may_be_source(&private));
        assert!(!Tag::Service.may_be_destination("10.0.0.4".parse().unwrap()));
        assert!(Tag::Unknown.may_be_destination("10.0.0.4".parse().unwrap()));
        assert!(!Tag::Internet.may_be_destination("10.0.0.4".parse().unwrap()));
        assert!(Tag::LoadBalancer.may_be_source(&"168.63.129.0/24".parse().unwrap()));
        assert!(!Tag::LoadBalancer.may_be_source(&public));
    }
}
