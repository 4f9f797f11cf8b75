use std::io::{Error, ErrorKind};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use super::talk::Talk;
use super::{AT_ONCE, Greeting, HELLO, PAUSE, connect};
use crate::app::{AppError, Inherited};

/// A process that is just handing over itself is asked again so often.
const TRIES: u32 = 50;

/// The new process's side.
pub struct Takeover {
    talk: Talk,
    folder: PathBuf,
    inherited: Option<Inherited>,
}

impl Takeover {
    /// Asks the process that runs on a data directory for its sockets; none where none runs.
    ///
    /// # Errors
    /// When one runs and does not give them.
    pub async fn ask(folder: &Path) -> Result<Option<Self>, AppError> {
        let failed = |doing| move |source| AppError::Handover { doing, source };
        for _ in 0..TRIES {
            let Some(stream) = connect(folder).await.map_err(failed("reach it"))? else { return Ok(None) };
            let mut talk = Talk::with(stream).map_err(failed("see who it is"))?;
            let asked = match talk.say(HELLO).await {
                Ok(()) => talk.hear_with().await,
                Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(None),
                Err(e) => Err(e),
            };
            if let Some((line, sockets)) = asked.map_err(failed("ask for its sockets"))? {
                let inherited = inherit(&line, sockets).map_err(failed("receive its sockets"))?;
                return Ok(Some(Self { talk, folder: folder.to_owned(), inherited: Some(inherited) }));
            }
            // It leaves, perhaps for a successor that will answer under the same name.
            tokio::time::sleep(PAUSE).await;
        }
        Err(failed("ask for its sockets")(Error::from(ErrorKind::ConnectionReset)))
    }

    /// The sockets, once.
    pub fn inherited(&mut self) -> Inherited {
        self.inherited.take().unwrap_or_default()
    }

    /// Says that everything is ready but accepting; returns when the other process accepts no more.
    pub(in crate::app) async fn ready(&mut self) -> Result<(), AppError> {
        self.step("ready", "go").await
    }

    /// Says that this process serves; returns when the other one drains.
    pub(in crate::app) async fn serving(&mut self) -> Result<(), AppError> {
        self.step("serving", "farewell").await
    }

    async fn step(&mut self, say: &'static str, hear: &str) -> Result<(), AppError> {
        let heard = match self.talk.say(say).await {
            Ok(()) => self.talk.expect(hear, AT_ONCE).await,
            Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(false),
            Err(e) => Err(e),
        };
        match heard.map_err(|source| AppError::Handover { doing: "agree on when", source })? {
            true => Ok(()),
            // It has died, and the sockets are ours; or it has lost patience with us, and goes on.
            false => match connect(&self.folder).await {
                Ok(Some(_)) => Err(AppError::NotHandedOver),
                _ => Ok(()),
            },
        }
    }
}

fn inherit(line: &str, sockets: Vec<OwnedFd>) -> std::io::Result<Inherited> {
    let greeting: Greeting = serde_json::from_str(line).map_err(|_| Error::other(line.to_owned()))?;
    if greeting.listeners.len() != sockets.len() {
        return Err(Error::new(ErrorKind::InvalidData, "their number is wrong"));
    }
    let mut inherited = Inherited::default();
    for (named, socket) in greeting.listeners.into_iter().zip(sockets) {
        rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::CLOEXEC)?;
        inherited.add(named.key, Some(named.address), socket.into());
    }
    Ok(inherited)
}
