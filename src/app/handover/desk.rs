use std::io::{Error, Result};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;

use super::talk::Talk;
use super::{AT_ONCE, Greeting, HELLO, NAME, Named, PAUSE, Place, connect};
use crate::app::listeners::Kept;
use crate::app::{Gates, Notifier};
use crate::tasks::Tasks;

/// What a new process may need until it is ready: migrations, certificates.
const START: Duration = Duration::from_secs(300);

/// The running process's side. Takes its name away when dropped, unless a successor has it.
pub(in crate::app) struct Desk {
    place: Place,
    inode: u64,
    handed_over: watch::Receiver<bool>,
}

impl Desk {
    /// Listens in the data directory; none where another process does.
    pub(in crate::app) async fn open(
        folder: &Path,
        gates: Gates,
        notifier: Arc<Notifier>,
        tasks: &Tasks,
        succeeds: bool,
    ) -> Result<Option<Self>> {
        // The one that was taken over from still answers there, for as long as we have not.
        if !succeeds && connect(folder).await?.is_some() {
            return Ok(None);
        }
        let place = Place::new(folder)?;
        let (path, new) = (place.join(NAME), place.join(&format!("{NAME}.{}", std::process::id())));
        drop(std::fs::remove_file(&new));
        let listener = UnixListener::bind(&new)?;
        std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600))?;
        // In one step: a process that asks finds the old one or us.
        std::fs::rename(&new, &path)?;
        let inode = std::fs::metadata(&path)?.ino();
        let (told, handed_over) = watch::channel(false);
        let stopping = tasks.stopping();
        tasks.spawn("handover", async move {
            tokio::select! {
                () = attend(listener, &gates, &notifier, told) => {}
                () = stopping.cancelled() => {}
            }
        });
        Ok(Some(Self { place, inode, handed_over }))
    }

    /// Resolves when a successor serves in our place.
    pub(in crate::app) async fn handed_over(&self) {
        let mut told = self.handed_over.clone();
        if told.wait_for(|yes| *yes).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        // The name is the successor's then, whose socket may have got the number of ours.
        if *self.handed_over.borrow() {
            return;
        }
        let path = self.place.join(NAME);
        if std::fs::metadata(&path).is_ok_and(|about| about.ino() == self.inode) {
            drop(std::fs::remove_file(path));
        }
    }
}

async fn attend(listener: UnixListener, gates: &Gates, notifier: &Notifier, told: watch::Sender<bool>) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot speak with a successor");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let handed_over = hand_over(stream, gates, notifier, &told).await;
        match handed_over {
            Ok(true) => return,
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "a successor failed; this process goes on"),
        }
        gates.accept(true);
    }
}

/// False: the other side only looked whether somebody is here.
async fn hand_over(
    stream: UnixStream,
    gates: &Gates,
    notifier: &Notifier,
    told: &watch::Sender<bool>,
) -> Result<bool> {
    let mut talk = Talk::with(stream)?;
    let gone = || Error::other("it is gone before it served");
    match talk.hear(AT_ONCE).await? {
        Some(line) if line == HELLO => {}
        Some(_) => {
            talk.say("this Remora hands over in another way; stop it first").await?;
            return Err(Error::other("it speaks another version"));
        }
        None => return Ok(false),
    }
    let successor = talk.0.peer_cred()?.pid();
    tracing::info!(pid = successor, "a successor starts");
    greet(&talk, &gates.sockets).await?;
    if !talk.expect("ready", START).await? {
        return Err(gone());
    }
    gates.accept(false);
    talk.say("go").await?;
    if !talk.expect("serving", AT_ONCE).await? {
        return Err(gone());
    }
    // 0: it lives in another world of process ids.
    if let Some(pid) = successor.and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid > 0) {
        notifier.main_process(pid);
    }
    told.send_replace(true);
    // It serves, whether it hears this or not.
    if talk.say("farewell").await.is_ok() {
        drop(talk.hear(AT_ONCE).await);
    }
    Ok(true)
}

async fn greet(talk: &Talk, sockets: &Kept) -> Result<()> {
    let sockets = sockets.sockets();
    let named = sockets.iter().map(|s| Named { key: s.key.to_owned(), address: s.address.clone() });
    let greeting = serde_json::to_string(&Greeting { listeners: named.collect() })?;
    let passed: Vec<BorrowedFd<'_>> = sockets.iter().map(|s| s.socket.as_fd()).collect();
    talk.say_with(&greeting, &passed).await
}
