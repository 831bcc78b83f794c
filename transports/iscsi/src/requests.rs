//! Login, NOP, Text and Logout: requests whose data is text or a ping, not payload.

use spindle_iscsi_wire::bhs::Digests;
use spindle_iscsi_wire::keys::{TextBuf, TextList, name};
use spindle_iscsi_wire::login::VERSION;
use spindle_iscsi_wire::{
    InitiatorOpcode, Itt, LoginRequest, LoginResponse, LoginStatus, LogoutReason, LogoutRequest,
    LogoutResponse, LogoutResult, NopIn, NopOut, RejectReason, SerialNumber, TextRequest, TextResponse, Ttt,
};
use spindle_net::{Close, ConnId, Net};
use spindle_reactor::{CoreId, Tick};
use spindle_scsi_port::{Mid, NexusInfo, Refusal, TransportKind};

use crate::conn::{Claim, Conn, ConnState, TextExchange};
use crate::directory::{ConnMsg, SessionKey};
use crate::discovery::{Asker, send_targets};
use crate::login::{LoginDone, LoginStep};
use crate::negotiate::{Negotiator, Stage};
use crate::rx::Plan;
use crate::session::{Session, WINDOW_MAX};
use crate::solicit::Solicit;
use crate::timers::Later;
use crate::transport::IscsiTransport;

impl<N: Net> IscsiTransport<N> {
    /// The data segment of a PDU that is not payload is whole.
    pub(crate) fn collected(&mut self, conn: &mut Conn) {
        let data = std::mem::take(&mut conn.collected);
        match InitiatorOpcode::of(&conn.bhs) {
            Some(InitiatorOpcode::LoginRequest) => self.login_request(conn, &data),
            Some(InitiatorOpcode::NopOut) => self.answer_nop(conn, &data),
            Some(InitiatorOpcode::TextRequest) => self.text_request(conn, &data),
            _ => {}
        }
        if conn.collected.capacity() == 0 && data.capacity() <= crate::login::LOGIN_TEXT_MAX as usize {
            conn.collected = data;
        }
    }

    fn login_request(&mut self, conn: &mut Conn, text: &[u8]) {
        let ConnState::Login(login) = &mut conn.state else { return };
        let Ok(request) = LoginRequest::parse(&conn.bhs) else {
            return self.refuse(conn, LoginStatus::INITIATOR_ERROR);
        };
        match login.request(&self.config, &request, text) {
            LoginStep::Reply { flags, text } => {
                let pdu = LoginResponse {
                    flags,
                    version_max: VERSION,
                    version_active: VERSION,
                    data_len: text.len() as u32,
                    isid: request.isid,
                    tsih: request.tsih,
                    itt: request.itt,
                    stat_sn: conn.next_stat_sn(),
                    exp_cmd_sn: request.cmd_sn,
                    max_cmd_sn: request.cmd_sn,
                    status: LoginStatus::SUCCESS,
                };
                self.send_bytes(conn.id, Digests::default(), &pdu.to_bhs(), &text);
            }
            LoginStep::Refuse(status) => self.refuse(conn, status),
            LoginStep::Finish { flags, text, done } => {
                let key = done.target.as_ref().map(|target| {
                    Box::new(SessionKey {
                        initiator: done.initiator_name.clone(),
                        isid: done.isid.0,
                        target: target.target,
                        portal_group: done.portal_group,
                    })
                });
                let tsih = done.tsih;
                conn.state = ConnState::Claiming(Box::new(Claim { done: *done, text, flags }));
                self.tell(CoreId(0), ConnMsg::Claim { key, tsih, claim: conn.id.0 });
            }
        }
    }

    /// A message of another core's transport (or of this core's own directory).
    pub fn on_message<M: Mid>(&mut self, from: CoreId, message: ConnMsg, now: Tick, mid: &mut M) {
        self.now = self.now.max(now);
        match message {
            ConnMsg::Claim { .. }
            | ConnMsg::Released { .. }
            | ConnMsg::Moved { .. }
            | ConnMsg::DropTarget { .. } => {
                let Some(directory) = self.directory.as_mut() else { return };
                let mut answers = Vec::new();
                directory.on_message(from, message, &mut |to, m| answers.push((to, m)));
                for (to, m) in answers {
                    self.tell(to, m);
                }
            }
            ConnMsg::Granted { claim, tsih } => match self.claiming(ConnId(claim)) {
                Some((mut conn, claim)) => {
                    if !self.begin_session(&mut conn, *claim, tsih, mid) {
                        self.tell(CoreId(0), ConnMsg::Released { tsih });
                    }
                    self.put_conn(conn);
                }
                None => self.tell(CoreId(0), ConnMsg::Released { tsih }),
            },
            ConnMsg::Refused { claim, status } => {
                if let Some((mut conn, _)) = self.claiming(ConnId(claim)) {
                    self.refuse(&mut conn, status);
                    self.put_conn(conn);
                }
            }
            ConnMsg::End { tsih } | ConnMsg::Drop { tsih } => {
                let key = self.sessions.iter().find(|(_, s)| s.tsih == tsih).map(|(key, _)| key);
                match (key, self.moves.gone_to(tsih)) {
                    (Some(key), _) if matches!(message, ConnMsg::End { .. }) => self.drop_session(key, mid),
                    (Some(key), _) => self.drop_in_order(key, mid),
                    (None, Some(to)) => self.tell(to, message),
                    (None, None) => {}
                }
            }
            ConnMsg::Offer { id, granted, info } => self.on_offer(from, id, granted, info, mid),
            ConnMsg::Welcome { id, ready } => self.on_welcome(id, ready),
            ConnMsg::Withdrawn { id } => self.on_withdrawn(from, id, mid),
            ConnMsg::Known { tsih } => self.on_known(tsih),
        }
        if from != self.core {
            self.answer_own_messages(mid);
        }
    }

    fn answer_own_messages<M: Mid>(&mut self, mid: &mut M) {
        while !self.to_self.is_empty() {
            for message in std::mem::take(&mut self.to_self) {
                self.on_message(self.core, message, self.now, mid);
            }
        }
    }

    /// A connection that waits for the directory, with what it waits to become.
    fn claiming(&mut self, id: ConnId) -> Option<(Box<Conn>, Box<Claim>)> {
        let mut conn = self.take_conn(id)?;
        match std::mem::replace(&mut conn.state, ConnState::Closing) {
            ConnState::Claiming(claim) => Some((conn, claim)),
            other => {
                conn.state = other;
                self.put_conn(conn);
                None
            }
        }
    }

    /// The last step of a login. `false`: refused after all.
    fn begin_session<M: Mid>(&mut self, conn: &mut Conn, claim: Claim, tsih: u16, mid: &mut M) -> bool {
        let Claim { done, text, flags } = claim;
        let session = match self.new_session(conn, &done, tsih, mid) {
            Ok(session) => session,
            Err(status) => {
                self.refuse(conn, status);
                return false;
            }
        };
        let nexus = session.nexus;
        let Ok(key) = self.sessions.insert(session) else {
            // `new_session` has looked; a nexus is not asked for unless there is a row.
            self.refuse(conn, LoginStatus::OUT_OF_RESOURCES);
            return false;
        };
        if let Some(nexus) = nexus {
            let slot = usize::from(nexus.slot());
            if self.nexuses.len() <= slot {
                self.nexuses.resize(slot + 1, None);
            }
            self.nexuses[slot] = Some((nexus, key));
        }
        conn.session = Some(key);
        let (exp_cmd_sn, max_cmd_sn) = self.window(conn);
        let pdu = LoginResponse {
            flags,
            version_max: VERSION,
            version_active: VERSION,
            data_len: text.len() as u32,
            isid: done.isid,
            tsih,
            itt: done.itt,
            stat_sn: conn.next_stat_sn(),
            exp_cmd_sn,
            max_cmd_sn,
            status: LoginStatus::SUCCESS,
        };
        // Digests begin with the first PDU of full feature phase (RFC 7143 §13.1).
        self.send_bytes(conn.id, Digests::default(), &pdu.to_bhs(), &text);
        conn.digests = Digests { header: done.params.header_digest, data: done.params.data_digest };
        conn.max_send = done.params.max_send_data_segment_length;
        conn.max_recv = done.params.max_recv_data_segment_length;
        conn.cid = done.cid;
        conn.state = ConnState::Full;
        conn.deadline = None;
        conn.heard = self.now;
        self.counters.logins += 1;
        let ms = self.config.limits.nop_in_interval_ms.max(1);
        self.reminders.remind(conn, Later { since: self.now, ms });
        self.again(conn);
        true
    }

    fn new_session<M: Mid>(
        &mut self,
        conn: &Conn,
        done: &LoginDone,
        tsih: u16,
        mid: &mut M,
    ) -> Result<Session, LoginStatus> {
        if self.sessions.len() + self.moves.coming() >= self.sessions.capacity() {
            return Err(LoginStatus::OUT_OF_RESOURCES);
        }
        let mut session = Session::new(done.params.clone(), done.isid, tsih, done.cmd_sn);
        session.solicit = Solicit::new(self.config.limits.solicited_min);
        session.initiator_name.clone_from(&done.initiator_name);
        session.initiator_alias.clone_from(&done.initiator_alias);
        session.portal_group = done.portal_group;
        session.authenticated = done.authenticated;
        session.connections.push(conn.id);
        let Some(target) = &done.target else {
            // Text and NOP need no room of the mid-level.
            session.granted = self.config.limits.window_first.clamp(1, WINDOW_MAX);
            return Ok(session);
        };
        if self.config.target_by_id(target.target).is_none() {
            return Err(LoginStatus::TARGET_REMOVED);
        }
        let info = NexusInfo {
            transport: TransportKind::Iscsi,
            initiator_name: done.initiator_name.clone(),
            initiator_session: done.isid.0,
            target_name: target.name.clone(),
            target: target.target,
            target_port: done.portal_group,
            lun_map: target.lun_map,
            peer_address: conn.peer.to_string(),
        };
        let nexus = mid.nexus_up(Box::new(info)).map_err(|refusal| match refusal {
            Refusal::NoRoom => LoginStatus::OUT_OF_RESOURCES,
            Refusal::NoTarget => LoginStatus::TARGET_REMOVED,
        })?;
        session.nexus = Some(nexus);
        session.target = Some(target.target);
        session.target_name.clone_from(&target.name);
        let limits = &self.config.limits;
        session.window_max = limits.window_max.min(target.queue_depth).clamp(1, WINDOW_MAX);
        let first = limits.window_first.clamp(1, session.window_max);
        session.granted = mid.grant(nexus, first).clamp(1, WINDOW_MAX);
        Ok(session)
    }

    /// A NOP-Out: a ping to be answered with its data, or the answer to a ping of ours.
    pub(crate) fn nop_begins(&mut self, conn: &mut Conn, nop: &NopOut) -> Plan {
        if nop.ttt != Ttt::RESERVED && conn.ping.is_some_and(|(ttt, _)| ttt == nop.ttt) {
            conn.ping = None;
        }
        if nop.itt == Itt::RESERVED { Plan::DROP } else { Plan::COLLECT }
    }

    fn answer_nop(&mut self, conn: &mut Conn, data: &[u8]) {
        let nop = NopOut::parse(&conn.bhs);
        // RFC 7143 §11.19: cut to what the initiator takes.
        let data = &data[..data.len().min(conn.max_send as usize)];
        let (exp_cmd_sn, max_cmd_sn) = self.window(conn);
        let pdu = NopIn {
            data_len: data.len() as u32,
            lun: [0; 8],
            itt: nop.itt,
            ttt: Ttt::RESERVED,
            stat_sn: conn.next_stat_sn(),
            exp_cmd_sn,
            max_cmd_sn,
        };
        self.send_bytes(conn.id, conn.digests, &pdu.to_bhs(), data);
    }

    /// Asks a silent initiator whether it is there.
    pub(crate) fn ping(&mut self, conn: &mut Conn) {
        let (exp_cmd_sn, max_cmd_sn) = self.window(conn);
        let ttt = self.new_tag();
        let pdu = NopIn {
            data_len: 0,
            lun: [0; 8],
            itt: Itt::RESERVED,
            ttt,
            // RFC 7143 §11.19.2: not used up by a ping.
            stat_sn: conn.stat_sn,
            exp_cmd_sn,
            max_cmd_sn,
        };
        self.send_header(conn.id, conn.digests, &pdu.to_bhs());
        conn.ping = Some((ttt, self.now));
    }

    /// A tag for what is no data transfer: pings and text. Those of data have a slot of the task table in
    /// their high half, never FFFFh.
    fn new_tag(&mut self) -> Ttt {
        self.last_tag = (self.last_tag + 1) % 0xFFFF;
        Ttt(0xFFFF_0000 | self.last_tag)
    }

    /// A Text Request with its data.
    fn text_request(&mut self, conn: &mut Conn, data: &[u8]) {
        let Ok(r) = TextRequest::parse(&conn.bhs) else { return };
        let mut exchange = match conn.text.take() {
            Some(x) if r.ttt == x.ttt && r.itt == x.itt => x,
            // RFC 7143 §11.10.4: a reserved tag begins anew, and whatever was begun before is forgotten.
            _ if r.ttt == Ttt::RESERVED => {
                TextExchange { itt: r.itt, ttt: Ttt::RESERVED, input: Vec::new(), output: Vec::new() }
            }
            _ => return self.reject(conn, RejectReason::ProtocolError),
        };
        if !exchange.output.is_empty() {
            if !data.is_empty() {
                return self.reject(conn, RejectReason::ProtocolError);
            }
            return self.text_response(conn, exchange, r.is_final);
        }
        if exchange.input.len() + data.len() > self.config.limits.text_bytes_max as usize {
            return self.reject(conn, RejectReason::OutOfResources);
        }
        exchange.input.extend_from_slice(data);
        if !r.more {
            let input = std::mem::take(&mut exchange.input);
            match self.answer_text(conn, &input) {
                Some(output) => exchange.output = output,
                None => return self.reject(conn, RejectReason::ProtocolError),
            }
        }
        self.text_response(conn, exchange, r.is_final);
    }

    /// Answers a whole text. `None`: it breaks a rule.
    fn answer_text(&mut self, conn: &mut Conn, text: &[u8]) -> Option<Vec<u8>> {
        let list = TextList::parse(text).ok()?;
        let session = self.sessions.get_mut(conn.session?)?;
        let mut negotiator = Negotiator::after_login(&self.config.limits, &session.params);
        let pairs = list.pairs().iter().map(|p| (p.key, p.value));
        let others = pairs.clone().filter(|(key, _)| *key != name::SEND_TARGETS);
        let answers = negotiator.offers(Stage::FullFeature, others).ok()?;
        if let Some(alias) = &negotiator.declared().initiator_alias {
            session.initiator_alias = Some(alias.clone());
        }
        session.params = negotiator.params().clone();
        conn.max_send = session.params.max_send_data_segment_length;
        let mut out = TextBuf::new();
        for (key, value) in &answers {
            out.pair(key, value);
        }
        let mut output = out.into_bytes();
        if let Some(value) = list.find(name::SEND_TARGETS) {
            let asker = Asker {
                initiator: &session.initiator_name,
                peer: conn.peer,
                local: conn.local,
                session_target: session.target,
            };
            match send_targets(&self.config, &asker, value) {
                Some(targets) => output.extend_from_slice(targets.as_bytes()),
                None => {
                    let mut out = TextBuf::new();
                    out.pair(name::SEND_TARGETS, "Reject");
                    output.extend_from_slice(out.as_bytes());
                }
            }
        }
        Some(output)
    }

    /// Sends as much of the answer as one PDU takes; what is left waits for the next request.
    fn text_response(&mut self, conn: &mut Conn, mut x: TextExchange, is_final: bool) {
        let take = x.output.len().min(conn.max_send as usize);
        let rest = x.output.split_off(take);
        let part = std::mem::replace(&mut x.output, rest);
        let more = !x.output.is_empty();
        let over = is_final && !more && x.input.is_empty();
        if !over && x.ttt == Ttt::RESERVED {
            x.ttt = self.new_tag();
        }
        let (exp_cmd_sn, max_cmd_sn) = self.window(conn);
        let pdu = TextResponse {
            is_final: over,
            more,
            data_len: part.len() as u32,
            lun: [0; 8],
            itt: x.itt,
            ttt: if over { Ttt::RESERVED } else { x.ttt },
            stat_sn: conn.next_stat_sn(),
            exp_cmd_sn,
            max_cmd_sn,
        };
        self.send_bytes(conn.id, conn.digests, &pdu.to_bhs(), &part);
        if !over {
            conn.text = Some(x);
        }
    }

    /// A Logout Request. Success is answered when the session's tasks have ended.
    pub(crate) fn logout_request<M: Mid>(&mut self, conn: &mut Conn, mid: &mut M) {
        let r = match LogoutRequest::parse(&conn.bhs) {
            Ok(r) => r,
            Err(e) => return self.reject(conn, e.reject_reason()),
        };
        let refusal = match r.reason {
            LogoutReason::CloseSession => None,
            LogoutReason::CloseConnection if r.cid == conn.cid => None,
            LogoutReason::CloseConnection => Some(LogoutResult::CidNotFound),
            LogoutReason::RemoveForRecovery => Some(LogoutResult::RecoveryNotSupported),
        };
        if let Some(result) = refusal {
            let window = self.window(conn);
            return self.send_logout(conn, r.itt, result, &window);
        }
        let Some(key) = conn.session else { return };
        conn.logout = Some(r.itt);
        let ms = self.config.limits.logout_wait_ms;
        conn.deadline = Some(self.now.plus_ms(ms));
        self.reminders.remind(conn, Later { since: self.now, ms });
        let window = self.window(conn);
        self.end_session(key, mid);
        if self.sessions.get(key).is_none() {
            // A discovery session has no tasks to wait for. The connection was not in its table to be told.
            conn.session = None;
            self.answer_logout(conn, &window);
            self.close_conn(conn, Close::Graceful);
        }
    }

    /// The session is gone: the logout that asked for it is answered.
    pub(crate) fn answer_logout(&mut self, conn: &mut Conn, window: &(SerialNumber, SerialNumber)) {
        if let Some(itt) = conn.logout.take() {
            self.send_logout(conn, itt, LogoutResult::Success, window);
        }
    }

    /// Tasks do not end in time: the initiator is told, and the connection ends. The session goes when they do.
    pub(crate) fn logout_failed(&mut self, conn: &mut Conn) {
        let window = self.window(conn);
        if let Some(itt) = conn.logout.take() {
            self.send_logout(conn, itt, LogoutResult::CleanupFailed, &window);
        }
        if let Some(session) = conn.session.take().and_then(|key| self.sessions.get_mut(key)) {
            session.connections.retain(|id| *id != conn.id);
        }
        self.close_conn(conn, Close::Graceful);
    }

    fn send_logout(
        &mut self,
        conn: &mut Conn,
        itt: Itt,
        result: LogoutResult,
        window: &(SerialNumber, SerialNumber),
    ) {
        let limits = &self.config.limits;
        let pdu = LogoutResponse {
            result,
            itt,
            time2wait: limits.time2wait,
            time2retain: limits.time2retain,
            stat_sn: conn.next_stat_sn(),
            exp_cmd_sn: window.0,
            max_cmd_sn: window.1,
        };
        self.send_header(conn.id, conn.digests, &pdu.to_bhs());
    }
}
