//! From the command line to a channel.

use vchan::{Channel, Client, DomId, Error, Host, Server, StorePath, diagnostics};

use crate::args::Args;
use crate::failure::Failure;
use crate::report::Report;

/// Connects to the server, or waits for the client.
pub fn connect(args: &Args, peer: DomId, report: Report) -> Result<Channel, Failure> {
    let host = vchan_emulator::host_from_environment()
        .map_err(|error| Failure::NoHost(error.to_string()))?;
    let channel = if args.server {
        accept(args, &host, peer, report)
    } else {
        dial(args, &host, peer, report)
    };
    channel.map_err(|error| match (error, &args.nodepath) {
        (Error::Path(why), Some(path)) => Failure::NodePath {
            path: path.clone(),
            why,
        },
        (error, _) => error.into(),
    })
}

fn dial(args: &Args, host: &Host, server: DomId, report: Report) -> Result<Channel, Error> {
    let mut builder = Client::builder(host, server);
    if let Some(path) = &args.nodepath {
        builder = builder.path(path.clone());
    }
    if let Some(timeout) = args.timeout {
        builder = builder.timeout(timeout);
    }
    let mut client = builder.start()?;
    let mut said = String::new();
    let channel = loop {
        if let Some(channel) = client.attempt()? {
            break channel;
        }
        let waiting_for = client.waiting_for();
        if waiting_for != said {
            report.note(&waiting_for);
            said = waiting_for;
        }
        client.wait()?;
    };
    report.text(&diagnostics::client(&channel.handshake()));
    Ok(channel)
}

fn accept(args: &Args, host: &Host, client: DomId, report: Report) -> Result<Channel, Error> {
    let path: StorePath = match &args.nodepath {
        Some(path) => path.clone(),
        None => "data/vchan".parse()?,
    };
    report.text(&diagnostics::server_begins(client, &path));
    let mut server = Server::builder(host, client)
        .path(path)
        .read_size(args.read_size)
        .write_size(args.write_size)
        .bind()?;
    report.text(&diagnostics::server(&server.pending()?.handshake()));
    report.note(format_args!(
        "waiting for a client of domain {client} at {}",
        server.path()
    ));
    let channel = match args.timeout {
        Some(timeout) => server.accept_timeout(timeout)?,
        None => server.accept()?,
    };
    report.note(format_args!("a client of domain {client} has connected"));
    Ok(channel)
}
