//! The login phase (RFC 7143 §6.3): from the first request to full feature phase, as text in and text out.

use spindle_iscsi_wire::keys::{TextBuf, TextList, name};
use spindle_iscsi_wire::login::LoginFlags;
use spindle_iscsi_wire::{LoginResponse, LoginStatus, Stage, values};

use crate::chap::{self, Algorithm, chap_response};
use crate::config::{ChapConfig, Config, LoginPath, SessionType};
use crate::negotiate::Negotiation;
use crate::violation::What;

/// What to do after a response.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Send a request with this text.
    Send(LoginFlags, Vec<u8>),
    /// Full feature phase.
    Done { tsih: u16 },
    /// Refused by the target.
    Refused { status: LoginStatus, address: Option<String> },
    /// Cannot go on; the violations say why.
    Broken,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// AuthMethod offered.
    AuthMethod,
    /// CHAP_A offered.
    ChapAlgorithm,
    /// CHAP_R sent.
    ChapResponse,
    Operational,
}

/// Text bytes taken from the target in one login, and requests sent. A good login needs a fraction.
const TEXT_MAX: usize = 64 * 1024;
const ROUNDS_MAX: u32 = 64;

#[derive(Debug)]
pub(crate) struct Login {
    phase: Phase,
    stage: Stage,
    pub(crate) negotiation: Negotiation,
    /// Text of the target, while its C bit is set.
    heard: Vec<u8>,
    heard_total: usize,
    /// Text of ours still to be sent, and whether T goes with its end.
    to_say: Vec<u8>,
    then: Option<Stage>,
    /// NSG of the request under way.
    asked: Option<Stage>,
    rounds: u32,
    algorithm: Option<Algorithm>,
    /// CHAP_N and CHAP_R of the target.
    proof: Option<(String, String)>,
}

impl Login {
    /// The first request.
    pub(crate) fn start(config: &Config) -> (Self, Step) {
        let operational = config.path == LoginPath::OperationalOnly;
        let mut login = Self {
            phase: if operational { Phase::Operational } else { Phase::AuthMethod },
            stage: if operational { Stage::LoginOperationalNegotiation } else { Stage::SecurityNegotiation },
            negotiation: Negotiation::default(),
            heard: Vec::new(),
            heard_total: 0,
            to_say: Vec::new(),
            then: None,
            asked: None,
            rounds: 0,
            algorithm: None,
            proof: None,
        };
        let mut text = TextBuf::new();
        text.pair(name::INITIATOR_NAME, &config.initiator_name);
        if let Some(alias) = &config.initiator_alias {
            text.pair(name::INITIATOR_ALIAS, alias);
        }
        if let Some(target) = &config.target_name {
            text.pair(name::TARGET_NAME, target);
        }
        let session = match config.session {
            SessionType::Normal => "Normal",
            SessionType::Discovery => "Discovery",
        };
        text.pair(name::SESSION_TYPE, session);
        let then = if operational {
            login.offer(config, &mut text);
            Some(Stage::FullFeaturePhase)
        } else {
            text.pair(name::AUTH_METHOD, &config.auth_methods);
            // With nothing to prove, one request may leave the stage.
            if config.auth_methods == values::NONE { Some(after_security(config)) } else { None }
        };
        let step = login.say(config, text.into_bytes(), then);
        (login, step)
    }

    /// A response and its text.
    pub(crate) fn on_response(
        &mut self,
        config: &Config,
        pdu: &LoginResponse,
        text: &[u8],
        wrong: &mut Vec<What>,
    ) -> Step {
        if !pdu.status.is_success() {
            let list = TextList::parse(text).unwrap_or_default();
            return Step::Refused {
                status: pdu.status,
                address: list.find(name::TARGET_ADDRESS).map(str::to_owned),
            };
        }
        if pdu.isid != config.isid {
            wrong.push(What::LoginField { field: "ISID" });
        }
        if pdu.version_active != 0 {
            wrong.push(What::LoginField { field: "Version-active" });
        }
        // RFC 7143 §11.13.3: the response stays in the stage of the request, and goes no further than asked.
        let too_far = match (pdu.flags.transit, self.asked) {
            (Some(next), Some(asked)) => next > asked,
            (Some(_), None) => true,
            (None, _) => false,
        };
        if pdu.flags.stage != self.stage || too_far {
            wrong.push(What::LoginStage);
            return Step::Broken;
        }
        self.rounds += 1;
        self.heard_total += text.len();
        if self.rounds > ROUNDS_MAX || self.heard_total > TEXT_MAX {
            wrong.push(What::LoginEndless);
            return Step::Broken;
        }
        self.heard.extend_from_slice(text);
        if pdu.flags.more {
            // §6.2: unfinished text is answered by an empty request.
            return self.say(config, Vec::new(), None);
        }
        if !self.to_say.is_empty() {
            return self.say_rest(config);
        }
        let heard = std::mem::take(&mut self.heard);
        let list = match TextList::parse(&heard) {
            Ok(list) => list,
            Err(error) => {
                wrong.push(What::Text(error));
                return Step::Broken;
            }
        };
        if let (Phase::ChapResponse, Some(name), Some(response)) =
            (self.phase, list.find(name::CHAP_N), list.find(name::CHAP_R))
        {
            self.proof = Some((name.to_owned(), response.to_owned()));
        }
        let mut reply = TextBuf::new();
        for pair in list.pairs() {
            if pair.key == name::AUTH_METHOD || pair.key.starts_with("CHAP_") {
                continue;
            }
            if let Some((key, value)) = self.negotiation.take(pair.key, pair.value, wrong) {
                reply.pair(&key, value);
            }
        }
        let security = self.stage == Stage::SecurityNegotiation;
        let went_on = match pdu.flags.transit {
            Some(next) => next,
            None if security => return self.security(config, &list, reply, wrong),
            // The target is not ready, or had offers of its own: answer, and ask again.
            None => return self.say(config, reply.into_bytes(), Some(Stage::FullFeaturePhase)),
        };
        if security && !self.security_done(config, wrong) {
            return Step::Broken;
        }
        if went_on == Stage::FullFeaturePhase {
            return self.finish(config, pdu.tsih, wrong);
        }
        self.stage = went_on;
        self.phase = Phase::Operational;
        self.offer(config, &mut reply);
        self.say(config, reply.into_bytes(), Some(Stage::FullFeaturePhase))
    }

    /// The next step inside SecurityNegotiation.
    fn security(
        &mut self,
        config: &Config,
        list: &TextList<'_>,
        mut reply: TextBuf,
        wrong: &mut Vec<What>,
    ) -> Step {
        let mut missing = |key| {
            wrong.push(What::Chap { key });
            Step::Broken
        };
        match (self.phase, &config.chap) {
            (Phase::AuthMethod, Some(chap)) if list.find(name::AUTH_METHOD) == Some("CHAP") => {
                let numbers: Vec<String> = chap.algorithms.iter().map(|a| a.number().to_string()).collect();
                reply.pair(name::CHAP_A, numbers.join(","));
                self.phase = Phase::ChapAlgorithm;
                self.say(config, reply.into_bytes(), None)
            }
            (Phase::AuthMethod, _) => match list.find(name::AUTH_METHOD) {
                Some(values::NONE) | None => {
                    self.say(config, reply.into_bytes(), Some(after_security(config)))
                }
                Some(_) => missing(name::AUTH_METHOD),
            },
            (Phase::ChapAlgorithm, Some(chap)) => {
                let algorithm = list.find(name::CHAP_A).and_then(|a| Algorithm::of(values::number(a).ok()?));
                let Some(algorithm) = algorithm.filter(|a| chap.algorithms.contains(a)) else {
                    return missing(name::CHAP_A);
                };
                let Some(identifier) =
                    list.find(name::CHAP_I).and_then(|i| values::number_in(i, 0, 255).ok())
                else {
                    return missing(name::CHAP_I);
                };
                let Some(challenge) = list.find(name::CHAP_C).and_then(chap::decode) else {
                    return missing(name::CHAP_C);
                };
                self.algorithm = Some(algorithm);
                let response = chap_response(algorithm, identifier as u8, &chap.secret, &challenge);
                reply.pair(name::CHAP_N, &chap.name).pair(name::CHAP_R, chap.form.write(&response));
                if let Some(mutual) = &chap.mutual {
                    reply.pair(name::CHAP_I, mutual.identifier);
                    reply.pair(name::CHAP_C, chap.form.write(&mutual.challenge));
                }
                self.phase = Phase::ChapResponse;
                self.say(config, reply.into_bytes(), Some(after_security(config)))
            }
            _ => self.say(config, reply.into_bytes(), Some(after_security(config))),
        }
    }

    /// On leaving SecurityNegotiation: did the target prove itself, if it was to?
    fn security_done(&self, config: &Config, wrong: &mut Vec<What>) -> bool {
        let Some(ChapConfig { mutual: Some(mutual), .. }) = &config.chap else { return true };
        let Some(algorithm) = self.algorithm.filter(|_| self.phase == Phase::ChapResponse) else {
            // AuthMethod=None was on offer and chosen; nothing was promised then.
            return true;
        };
        let expected = chap_response(algorithm, mutual.identifier, &mutual.secret, &mutual.challenge);
        let proven = self.proof.as_ref().is_some_and(|(name, response)| {
            let name_fits = mutual.name.as_ref().is_none_or(|wanted| wanted == name);
            name_fits && chap::decode(response).is_some_and(|response| response == expected)
        });
        if !proven {
            wrong.push(What::TargetNotAuthentic);
        }
        proven
    }

    fn finish(&mut self, config: &Config, tsih: u16, wrong: &mut Vec<What>) -> Step {
        // RFC 7143 §11.13.4: a new session gets a handle, a joined one keeps its own.
        if tsih == 0 || config.tsih != 0 && tsih != config.tsih {
            wrong.push(What::Tsih { got: tsih });
        }
        let tag = self.negotiation.answers.contains_key(name::TARGET_PORTAL_GROUP_TAG);
        // §13.9: the first response of a normal session names the portal group.
        if config.session == SessionType::Normal && !tag {
            wrong.push(What::NoPortalGroupTag);
        }
        wrong.extend(self.negotiation.unanswered());
        Step::Done { tsih }
    }

    fn offer(&mut self, config: &Config, text: &mut TextBuf) {
        for (key, value) in config.offers.pairs() {
            // What the target brought up before us is answered, not offered again.
            if !self.negotiation.answers.contains_key(key) || key == name::MAX_RECV_DATA_SEGMENT_LENGTH {
                self.negotiation.offer(key, value);
                text.pair(key, value);
            }
        }
    }

    fn say(&mut self, config: &Config, text: Vec<u8>, then: Option<Stage>) -> Step {
        self.to_say = text;
        self.then = then;
        self.say_rest(config)
    }

    /// The next piece of our text; T and NSG go with the last.
    fn say_rest(&mut self, config: &Config) -> Step {
        let len = self.to_say.len().min(config.login_text_max.max(1));
        let piece: Vec<u8> = self.to_say.drain(..len).collect();
        let more = !self.to_say.is_empty();
        self.asked = if more { None } else { self.then };
        Step::Send(LoginFlags { stage: self.stage, transit: self.asked, more }, piece)
    }
}

fn after_security(config: &Config) -> Stage {
    match config.path {
        LoginPath::SecurityOnly => Stage::FullFeaturePhase,
        _ => Stage::LoginOperationalNegotiation,
    }
}
