//! Traffic control: everything that arrives at one interface leaves through another (tc-u32(8), tc-mirred(8)).

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{
    TcAction, TcActionAttribute, TcActionGeneric, TcActionMirror, TcActionMirrorOption, TcActionOption, TcActionType,
    TcAttribute, TcFilterU32, TcFilterU32Option, TcHandle, TcMessage, TcMirror, TcMirrorActionType, TcOption, TcU32Key,
    TcU32Selector, TcU32SelectorFlags,
};

use crate::{Connection, NetlinkError, Verb};

/// Kind of the queueing discipline that filters what arrives.
const INGRESS: &str = "ingress";

/// `ETH_P_ALL` in network byte order, where the message wants the protocol: filters see every packet.
const ALL_PROTOCOLS: u32 = (0x0003_u16).to_be() as u32;

impl Connection {
    /// Gives interface `link` the place where filters for arriving packets go.
    ///
    /// # Errors
    /// [`NetlinkError`], `EEXIST` when somebody else has it.
    pub fn add_ingress(&mut self, link: u32) -> Result<(), NetlinkError> {
        let what = format!("filter what arrives at interface {link}");
        self.ask(&what, Verb::Make, RouteNetlinkMessage::NewQueueDiscipline(ingress(link)))
    }

    /// Removes it with all its filters.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub fn remove_ingress(&mut self, link: u32) -> Result<(), NetlinkError> {
        let what = format!("stop filtering what arrives at interface {link}");
        self.ask(&what, Verb::Change, RouteNetlinkMessage::DelQueueDiscipline(ingress(link)))
    }

    /// Sends every packet that arrives at `from` out through `to`, of any protocol, unseen by anybody else here.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub fn redirect(&mut self, from: u32, to: u32) -> Result<(), NetlinkError> {
        let mut selector = TcU32Selector::default();
        // One key with an empty mask: it fits everything.
        selector.flags = TcU32SelectorFlags::Terminal;
        selector.nkeys = 1;
        selector.keys = vec![TcU32Key::default()];

        let mut generic = TcActionGeneric::default();
        generic.action = TcActionType::Stolen;
        let mut mirror = TcMirror::default();
        mirror.generic = generic;
        mirror.eaction = TcMirrorActionType::EgressRedir;
        mirror.ifindex = to;
        let mut action = TcAction::default();
        action.attributes = vec![
            TcActionAttribute::Kind(TcActionMirror::KIND.to_owned()),
            TcActionAttribute::Options(vec![TcActionOption::Mirror(TcActionMirrorOption::Parms(mirror))]),
        ];

        let mut message = TcMessage::default();
        message.header.index = from.cast_signed();
        message.header.parent = TcHandle { major: 0xffff, minor: 0 };
        message.header.info = 1 << 16 | ALL_PROTOCOLS;
        message.attributes = vec![
            TcAttribute::Kind(TcFilterU32::KIND.to_owned()),
            TcAttribute::Options(vec![
                TcOption::U32(TcFilterU32Option::Selector(selector)),
                TcOption::U32(TcFilterU32Option::Action(vec![action])),
            ]),
        ];
        self.ask(&format!("redirect interface {from} to {to}"), Verb::Make, RouteNetlinkMessage::NewTrafficFilter(message))
    }
}

fn ingress(link: u32) -> TcMessage {
    let mut message = TcMessage::default();
    message.header.index = link.cast_signed();
    message.header.parent = TcHandle::INGRESS;
    message.header.handle = TcHandle { major: 0xffff, minor: 0 };
    message.attributes = vec![TcAttribute::Kind(INGRESS.to_owned())];
    message
}
