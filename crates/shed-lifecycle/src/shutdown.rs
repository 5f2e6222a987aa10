//! Brings a machine down: asks, waits, and ends it (spec C.5).

use std::{sync::Arc, time::Duration};

use shed_backend::Vm;
use shed_protocol::{PowerOff, SYSTEM_POWER_OFF};
use shed_state::ShedRecord;
use tokio::{sync::watch, time::timeout};

use crate::{
    boot::Machine,
    channel::{Channel, ChannelError, Health},
    context::Context,
    error::ClearVmError,
};

/// How long the agent has to take the request to power off. One that cannot in this time is not going to.
const ASK_AGENT: Duration = Duration::from_secs(5);

/// How long a VMM has to end by itself once the guest has not.
const VMM_GRACE: Duration = Duration::from_secs(1);

/// Brings the machine down. What its channel was for comes first, if it had one: the last changes of its credentials are
/// taken. Then it ends, gently for `stop_timeout`, then by force; afterwards nothing of it is left.
///
/// # Errors
/// When the process cannot be shown dead.
pub(crate) async fn stop(
    context: Arc<Context>,
    record: ShedRecord,
    vm: Option<Arc<dyn Vm>>,
    machine: Option<Machine>,
) -> Result<(), ClearVmError> {
    let shed = &record.name;
    if let Some(machine) = machine {
        context.credentials.farewell(shed, &*machine.vm, &machine.keeper.channel()).await;
    }
    if let Some(vm) = &vm {
        let gentle = async {
            if let Err(error) = ask_agent(&**vm).await {
                tracing::warn!(%shed, error = %error, "the agent did not take the request to power off; pressing the power button");
                if let Err(error) = vm.press_power_button().await {
                    tracing::warn!(%shed, error = %error, "the power button does not work either");
                }
            }
            vm.ended().await;
        };
        if timeout(context.settings.stop_timeout, gentle).await.is_err() {
            tracing::warn!(%shed, "the guest did not power off in time; ending its machine");
        }
        let killed = vm.kill(VMM_GRACE).await;
        killed.map_err(|source| ClearVmError::End { shed: shed.clone(), source: source.into() })?;
    }
    context.ensure_no_vm(&record).await
}

async fn ask_agent(vm: &dyn Vm) -> Result<(), ChannelError> {
    let ask = async {
        // A channel of its own: the keeper's is gone by now, and the guest takes the newest one.
        let mut channel = Channel::open(vm, watch::Sender::new(Health::default())).await?;
        let _reply: serde_json::Value = channel.request(SYSTEM_POWER_OFF, &PowerOff {}).await?;
        Ok(())
    };
    let late = ChannelError::NoReply { namespace: SYSTEM_POWER_OFF, waited: ASK_AGENT };
    timeout(ASK_AGENT, ask).await.unwrap_or(Err(late))
}
