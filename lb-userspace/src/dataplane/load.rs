//! Loads the object: maps from their pins or new ones, and programs as they
//! are needed, since the kernel takes a good part of a second to verify each.

use super::spec::specs;
use super::{DataplaneError, HookOptions, PinDir, sockets};
use crate::object::OBJECT;
use aya::programs::{CgroupSockAddr, Program, ProgramError, SchedClassifier, Xdp};
use aya::{Ebpf, EbpfLoader};
use lb_common::names;
use std::collections::BTreeMap;

/// The loaded object.
pub(super) struct Programs {
    ebpf: Ebpf,
    /// What the kernel said of the programs that it refused: it would take as
    /// long to say it again.
    refused: BTreeMap<&'static str, String>,
}

impl Programs {
    /// Loads the maps, and the programs that every node needs. That they load
    /// is known before anything is attached. Maps that are `growing` are made anew,
    /// and staged.
    pub(super) fn load(
        options: &HookOptions,
        pins: &PinDir,
        growing: &[&str],
    ) -> Result<Self, DataplaneError> {
        let mut programs = Self::open(options, Some((pins, growing)))?;
        programs.classifier(names::PROG_INGRESS)?;
        programs.classifier(names::PROG_EGRESS)?;
        Ok(programs)
    }

    /// Loads the maps, pinned or not, and no program.
    pub(super) fn open(
        options: &HookOptions,
        pins: Option<(&PinDir, &[&str])>,
    ) -> Result<Self, DataplaneError> {
        let specs = specs(&options.sizes);
        let first = u32::from(*options.snat_ports.start());
        let last = u32::from(*options.snat_ports.end());
        let mut loader = EbpfLoader::new();
        loader.override_global(names::GLOBAL_SNAT_PORT_MIN, &first, true).override_global(
            names::GLOBAL_SNAT_PORT_MAX,
            &last,
            true,
        );
        let word = options.behaviour.options();
        loader.override_global(names::GLOBAL_OPTIONS, &word, true);
        let [young_v4, young_v6] = [options.sizes.flows_v4, options.sizes.flows_v6]
            .map(|flows| lb_common::limits::young(flows) - 1);
        loader.override_global(names::GLOBAL_YOUNG_MASK_V4, &young_v4, true).override_global(
            names::GLOBAL_YOUNG_MASK_V6,
            &young_v6,
            true,
        );
        let (namespace, socket_options) = sockets::constants(options.socket_clients);
        loader.override_global(names::GLOBAL_NETNS_COOKIE, &namespace, true).override_global(
            names::GLOBAL_SOCKET_OPTIONS,
            &socket_options,
            true,
        );
        for spec in &specs {
            loader.map_max_entries(spec.name, spec.entries);
            if let Some((pins, growing)) = pins {
                let path = if growing.contains(&spec.name) {
                    pins.staged().map(spec.name)
                } else {
                    pins.coming_map(spec.name)
                };
                loader.map_pin_path(spec.name, path);
            }
        }
        let ebpf = loader.load(OBJECT).map_err(|source| DataplaneError::Object { source })?;
        Ok(Self { ebpf, refused: BTreeMap::new() })
    }

    /// The object, for its log.
    pub(super) const fn object(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }

    /// A TC program, ready to be attached.
    pub(super) fn classifier(
        &mut self,
        name: &'static str,
    ) -> Result<&mut SchedClassifier, DataplaneError> {
        self.ready(name, |program| {
            let program: &mut SchedClassifier = program.try_into()?;
            if program.fd().is_err() { program.load() } else { Ok(()) }
        })?
        .try_into()
        .map_err(|source| DataplaneError::Program { program: name, source })
    }

    /// The XDP program, ready to be attached.
    pub(super) fn xdp(&mut self) -> Result<&mut Xdp, DataplaneError> {
        let name = names::PROG_XDP;
        self.ready(name, |program| {
            let program: &mut Xdp = program.try_into()?;
            if program.fd().is_err() { program.load() } else { Ok(()) }
        })?
        .try_into()
        .map_err(|source| DataplaneError::Program { program: name, source })
    }

    /// A program for calls of sockets, ready to be attached.
    pub(super) fn socket(&mut self, name: &'static str) -> Result<&mut Program, DataplaneError> {
        self.ready(name, |program| {
            if program.fd().is_ok() {
                return Ok(());
            }
            if let Program::CgroupSock(closing) = program {
                return closing.load();
            }
            let calls: &mut CgroupSockAddr = program.try_into()?;
            calls.load()
        })
    }

    /// The id of a program, if it is loaded.
    pub(super) fn id(&self, name: &str) -> Option<u32> {
        self.ebpf.program(name)?.info().ok().map(|info| info.id())
    }

    fn ready(
        &mut self,
        name: &'static str,
        load: impl FnOnce(&mut Program) -> Result<(), ProgramError>,
    ) -> Result<&mut Program, DataplaneError> {
        if let Some(reason) = self.refused.get(name) {
            return Err(DataplaneError::Refused(reason.clone()));
        }
        let program =
            self.ebpf.program_mut(name).ok_or(DataplaneError::MissingProgram { program: name })?;
        if let Err(source) = load(program) {
            let error = DataplaneError::Program { program: name, source };
            self.refused.insert(name, error.to_string());
            return Err(error);
        }
        Ok(program)
    }
}
