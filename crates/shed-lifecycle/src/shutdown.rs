//! Brings a machine down: runs the project's shutdown hook, asks, waits, and ends it (spec C.5).

use std::{sync::Arc, time::Duration};

use shed_backend::Vm;
use shed_protocol::{Occasion, PowerOff, SYSTEM_POWER_OFF, SetupRequest};
use shed_state::ShedRecord;
use shed_types::ShedName;
use tokio::{sync::watch, time::timeout};
use tracing::Instrument;

use crate::{
    Phase, Progress,
    boot::Machine,
    channel::{Channel, ChannelError, Health},
    context::Context,
    credentials::{Attending, Credentials},
    env_file,
    error::ClearVmError,
    setup,
};

/// How long the agent has to take the request to power off. One that cannot in this time is not going to.
const ASK_AGENT: Duration = Duration::from_secs(5);

/// How long a VMM has to end by itself once the guest has not.
const VMM_GRACE: Duration = Duration::from_secs(1);

/// A running machine on its way out: its message channel is still served.
pub(crate) struct Leaving {
    pub machine: Machine,
    /// Keeps credentials in step until then.
    pub credentials: Attending,
}

/// Most time that the project's shutdown hook gets (spec C.5).
const HOOK: Duration = Duration::from_secs(30);

/// Part of that time which is kept for the guest's word on how it ended.
const HOOK_ANSWER: u32 = 10;

/// Runs the project's shutdown hook and takes the last changes of credentials, then brings the machine down, gently for
/// `stop_timeout`, then by force; afterwards nothing of it is left.
///
/// Returns what went wrong on the way.
///
/// # Errors
/// When the process cannot be shown dead.
pub(crate) async fn stop(
    context: Arc<Context>,
    record: ShedRecord,
    vm: Option<Arc<dyn Vm>>,
    leaving: Option<Leaving>,
) -> Result<Vec<String>, ClearVmError> {
    let shed = &record.name;
    let mut warnings = Vec::new();
    if let Some(vm) = &vm {
        let span = tracing::info_span!("stop", %shed);
        warnings = run_hook(&context, shed, &**vm).instrument(span).await;
        if let Some(Leaving { machine, credentials }) = leaving {
            Credentials::farewell(credentials, &**vm, &machine.keeper.channel()).await;
        }
        let gentle = async {
            if let Err(error) = ask_agent(&**vm).await {
                tracing::warn!(%shed, error = %error, "the agent did not take the request to power off; pressing the power button");
                if let Err(error) = vm.press_power_button().await {
                    tracing::warn!(%shed, error = %error, "the power button does not work either");
                }
            }
            vm.ended().await;
        };
        let patience = context.settings.stop_timeout;
        if timeout(patience, gentle).await.is_err() {
            tracing::warn!(%shed, "the guest did not power off in time; ending its machine");
            warnings.push(format!(
                "the shed did not power off within {} s and was switched off; the journal may say what kept it (`shed logs {shed}`)",
                patience.as_secs()
            ));
        }
        let killed = vm.kill(VMM_GRACE).await;
        killed.map_err(|source| ClearVmError::End { shed: shed.clone(), source: source.into() })?;
    }
    context.ensure_no_vm(&record).await?;
    Ok(warnings)
}

/// Runs the shutdown hook, if the project has one, for half of `stop_timeout` at most. Returns what fails.
async fn run_hook(context: &Context, shed: &ShedName, vm: &dyn Vm) -> Vec<String> {
    let budget = HOOK.min(context.settings.stop_timeout / 2);
    let progress = Progress::silent();
    // It may be on a file system that does not answer.
    let file = timeout(budget, env_file::read(context.settings.env_file.as_ref())).await.unwrap_or_default();
    for warning in file.warnings {
        progress.warn(Phase::Provision, warning);
    }
    let request = SetupRequest {
        occasion: Occasion::Stop,
        clone: None,
        hooks: true,
        env: file.env,
        limit_ms: Some(u64::try_from((budget - budget / HOOK_ANSWER).as_millis()).unwrap_or(u64::MAX)),
    };
    // A machine that ends meanwhile has no hook to wait for.
    tokio::select! {
        () = setup::run_within(budget, ASK_AGENT, shed, vm, &request, &progress) => {}
        () = vm.ended() => {}
    }
    progress.warnings()
}

async fn ask_agent(vm: &dyn Vm) -> Result<(), ChannelError> {
    let ask = async {
        // A channel of its own: the keeper's is gone by now, and the guest takes the newest one.
        let mut channel = Channel::open(vm, watch::Sender::new(Health::default()), Arc::default()).await?;
        let _reply: serde_json::Value = channel.request(SYSTEM_POWER_OFF, &PowerOff {}).await?;
        Ok(())
    };
    let late = ChannelError::NoReply { namespace: SYSTEM_POWER_OFF, waited: ASK_AGENT };
    timeout(ASK_AGENT, ask).await.unwrap_or(Err(late))
}
