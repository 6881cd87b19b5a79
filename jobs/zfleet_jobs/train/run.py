"""``zfleet train``: plan, check that the run may go on, ship the base, train, and register what came out."""

from __future__ import annotations

from zfleet.config.specs import TrainSpec
from zfleet.engine.open import check_engine
from zfleet.models.bundle import pack_base
from zfleet_cluster import cluster
from zfleet_cluster.fleet.actors import shared_fleet
from zfleet_cluster.fleet.base import ship
from zfleet_jobs.recorded_spec import check_recordable
from zfleet_jobs.run_folder.checkpoints import expert_folder
from zfleet_jobs.run_folder.choice import record_choice, recorded_choice
from zfleet_jobs.run_folder.lock import only_writer
from zfleet_jobs.run_folder.record import record
from zfleet_jobs.run_folder.storage import Storage
from zfleet_jobs.train.memory import plan_memory
from zfleet_jobs.train.plan import TrainedExpert, experiment_of, make_plans, registered
from zfleet_jobs.train.start import find_starts, with_versions
from zfleet_jobs.train.trainer import Trainer
from zfleet_registry import ExpertRegistry


def run_train(spec: TrainSpec, address: str | None = None) -> list[TrainedExpert]:
    """Train every expert of a spec and register each as a version.

    An expert that the registry holds already, trained from exactly the same spec, data and factors, is not
    trained again; one whose run was interrupted goes on from its newest checkpoint. Every new version of a
    name becomes its champion, which a bare name means.

    Args:
        spec: The job.
        address: A running cluster; None starts one on this machine for as long as the job runs.

    Raises:
        ClusterError: No cluster answers.
        SpecError: The run was started with another spec; says which keys differ, and what they would change. Or its
            workers can never fit the memory; says what they need, what there is, and which keys to lower.
        CheckpointError: A checkpoint is damaged, or of another base.
        JobError: Another command writes to the run, it failed for a reason outside the job (its log says which), its
            storage is full, or the cluster is too small.
        EngineError: The spec's engine is not installed, or does not run this base.
        RegistryUnreachable: The registry does not answer; at the end of training only after minutes.
        ExpertNotFound, WrongBase, InvalidZ: An expert cannot begin at its `start`.
        ZfleetError: The job's own fault: a task, a reward, a base or the registry.
    """
    # What the user can get wrong is checked before a cluster is started.
    if address is None:
        check_engine(spec.engine)
    check_recordable(spec)
    registry = ExpertRegistry(spec.registry)
    bundle = pack_base(spec.base)
    starts = find_starts(registry, spec, bundle)
    spec = with_versions(spec, starts)
    plans = make_plans(spec, bundle, address is None, starts)
    storage = Storage.at(spec.storage, spec.run)
    with only_writer(storage, spec.run) as lease:
        # Before the record: a job that is refused here has not begun, and its spec may change.
        chosen, table = plan_memory(spec, bundle.model, plans, recorded_choice(storage))
        record(storage, spec, plans)
        record_choice(storage, chosen)
        spec = chosen.training(spec)
        done = {plan.expert.name: registered(registry, plan, bundle.slug) for plan in plans}
        trained = {name: result for name, result in done.items() if result is not None}
        # Cohorts are those of the whole job, whichever experts are done: experts share batches, and so their rounding.
        cohorts = [plans[place : place + spec.cohort] for place in range(0, len(plans), spec.cohort)]
        unfinished = [[plan for plan in cohort if plan.expert.name not in trained] for cohort in cohorts]
        todo = [cohort for cohort in unfinished if cohort]
        for plan in (plan for cohort in todo for plan in cohort):
            expert_folder(storage, plan).check_factors(bundle.factors_digest)
        if todo:
            registry.check_experiments(experiment_of(bundle.slug))
            with cluster(address):
                shipped = ship(bundle)
                with shared_fleet(shipped, spec.engine, spec.resources) as fleet:
                    trained |= Trainer(spec, shipped, fleet, registry, lease, table).train(todo)
    return [trained[expert.name] for expert in spec.experts]
