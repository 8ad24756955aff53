"""The tests notice when a protection is taken out: for each one here, the tests that hold it fail without it.

`bash run_tests.sh -m slow tests/test_mutations.py` runs them, with `-k engine/files` those of one file; `--all` does not.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, one_thread

BAD_FOLDER = "thumos_features::a_bad_folder_gets_one_message"
MUTATIONS = {  # by file: what stands there, what is written instead, and a test that fails then
    "dataset/feature_files.py": [
        ("if not np.isfinite(part).all():", "if False:", BAD_FOLDER + "[NaN]"),
        ('mmap_mode="r", allow_pickle=False', "allow_pickle=True", "thumos_features::nothing_in_a_feature_file_is_executed"),
        (
            'np.load(path, mmap_mode="r", allow_pickle=False)',
            'np.load(path, mmap_mode="r", allow_pickle=True)',
            "thumos_features::nothing_in_a_feature_file_is_executed[alone]",
        ),
        (
            "allow_pickle=False))\n    except Exception as error:",
            "allow_pickle=False))\n    except EOFError as error:",
            BAD_FOLDER + "[truncated array]",
        ),
        ("if not isinstance(array, np.ndarray):", "if False:", BAD_FOLDER + "[an archive]"),
        ('if array.dtype.kind not in "fiu":', "if False:", BAD_FOLDER + "[text array]"),
        ("array.shape[1] != width or", "", BAD_FOLDER + "[wrong width]"),
        ("or len(array) == 0:", ":", BAD_FOLDER + "[no rows]"),
        ("if len({len(array) for array in arrays}) > 1:", "if False:", BAD_FOLDER + "[streams of different length]"),
        (
            "if len(array) > MOST_SNIPPETS:",
            "if False:",
            "sizes::an_array_that_unpacks_to_more_than_a_video_has_is_not_unpacked",
        ),
        ("if len(array) > MOST_SNIPPETS:", "if False:", "sizes::a_plain_array_of_too_many_snippets_is_refused"),
        ('check_file(path, "features")', "pass", "sizes::a_feature_file_is_a_regular_file[device]"),
        ("if duration is not None and not 0 < duration < np.inf:", "if False:", "layouts::a_bad_npz_is_named[duration]"),
        ("if frames is not None and not (", "if False and not (", "clicks::frames_have_to_be_a_number_of_frames"),
    ],
    "dataset/annotations.py": [
        (
            "        check_database(database, str(path))\n",
            "        pass\n",
            "reading::a_run_and_the_scorer_accept_the_same_annotations",
        ),
        ("if unknown:", "if False:", BAD_FOLDER + "[unknown label]"),
    ],
    "dataset/archives.py": [
        (
            "np.load(stream, allow_pickle=False)",
            "np.load(stream, allow_pickle=True)",
            "clicks::nothing_in_labels_of_feature_files_is_executed",
        ),
        ("if said != there and", "if False and", "sizes::an_array_that_claims_more_than_is_there_takes_no_memory"),
        ("if math.prod(found.shape) != 1 or", "if", "sizes::a_number_that_unpacks_to_an_array_is_not_unpacked"),
        ("if version != (1, 0) and int", "if False and int", "sizes::a_header_of_gigabytes_is_not_read"),
        ("if len(set(names)) < len(names):", "if False:", "sizes::two_arrays_of_one_name_are_refused"),
    ],
    "dataset/clicks.py": [
        ("as_number(text)", "float(text)", "clicks::bad_lists_are_refused"),
        (
            'file["point_label"] if found.shape == (video.num_seg,) else found.zeros()',
            'file["point_label"]',
            "clicks::labels_of_another_size_are_not_unpacked",
        ),
        ("    if repeated:\n", "    if False:\n", "clicks::bad_lists_are_refused"),
    ],
    "dataset/facts.py": [
        ("(key not in FOLDER_KEYS or all(map(_stays_inside, names)))", "True", "facts::a_wrong_description_is_named"),
        ('re.fullmatch(r"[\\w+-][\\w.+ -]{0,99}", value)', "True", "facts::a_wrong_description_is_named"),
    ],
    "dataset/prepare.py": [
        ("    _check_address(args.url, args.allow_http)\n", "", "prepare::only_https_is_fetched_from"),
        ("        _check_address(newurl, self.allow_http)\n", "", "prepare::a_redirect_from_https_to_http_is_checked"),
        ("            _check_size(args.url, total or 0, most)\n", "", "prepare::a_download_has_a_largest_size[True]"),
        ("                    _check_size(args.url, done, most)\n", "", "prepare::a_download_has_a_largest_size[False]"),
        ("    if repeated:\n", "    if False:\n", "reading::odd_or_repeated_durations_are_refused"),
        ("map(as_number, words[1::2])", "map(float, words[1::2])", "reading::odd_or_repeated_durations_are_refused"),
        (
            "Path(config.facts.annotations[0]).name",
            "config.facts.annotations[0]",
            "facts::annotations_elsewhere_are_converted_to_where_they_are_to_be",
        ),
    ],
    "dataset/store.py": [
        (
            "if stream.read(len(header)) != header:",
            "if not stream.read(len(header)):",
            "store::a_packed_copy_of_other_files_is_replaced",
        ),
        ("and checksum(part) == stored[number]", "", "store::a_damaged_packed_copy_is_mended_from_the_files"),
        ("            return stored[number], True", "            pass", "store::the_packed_copy_is_read_instead_of_the_files"),
        (".free < 2 * len(values):", ".free < 0:", "store::a_place_that_takes_no_copy_is_no_obstacle"),
        ("and not torch.isfinite(part).all():", "and False:", "store::what_half_precision_cannot_hold_is_refused"),
        ("if size <= min(budget, free) else", "if True else", "store::a_gpu_is_taken_if_it_has_room"),
    ],
    "thumos_features.py": [
        ("if misplaced:", "if False:", BAD_FOLDER + "[split names a test video]"),
        (
            'if found.missing and (config.missing == "fail"',
            'if False and (config.missing == "fail"',
            BAD_FOLDER + "[missing features]",
        ),
    ],
    "engine/checkpoint.py": [
        ("weights_only=True", "weights_only=False", "checkpoint::bad_files"),
        ("if not isinstance(content, Mapping):", "if False:", "checkpoint::bad_files"),
        ("if missing or foreign:", "if missing:", "checkpoint::a_network_of_more_modules_is_refused_too"),
        ("if wrong:", "if False:", "checkpoint::another_network_is_refused_with_the_difference"),
        (
            "if not all(torch.isfinite(weight).all() for weight in self.network.parameters()):",
            "if False:",
            "main::weights_that_diverge_after_the_loss_do_not_reach_the_checkpoint",
        ),
        ('if "optimizer" not in content:', "if False:", "resume::weights_alone_are_nothing_to_resume"),
        (
            "if not isinstance(found, int) or found != FORMAT:",
            "if False:",
            "resume::a_checkpoint_of_an_earlier_version_is_refused",
        ),
        ("if name not in MAY_DIFFER and", "if False and", "resume::resume_with_other_settings_is_refused"),
        ('if content["data"] != self.data:', "if False:", "resume::resume_on_other_data_is_refused"),
        ("if done > config.num_iters:", "if False:", "resume::a_stopped_run_can_be_ended_where_it_stands"),
        (
            'elif list(content["learning_rates"][:done]) != config.learning_rates[:done]:',
            "elif False:",
            "resume::resume_with_other_settings_is_refused",
        ),
        (
            'with atomic_write(path, "wb") as stream:\n        stream.write(buffer.getbuffer())',
            "torch.save(content, path)",
            "main::a_full_disk_ends_with_a_message_and_whole_files",
        ),
        (
            "if name in trained and trained[name] != getattr(config, name, None) and not",
            "if False and not",
            "main::one_stream",
        ),
        (
            "checked(path, weights, fields({key: weight(value) for key, value in own.items()}), OTHER)",
            "pass",
            "checkpoint::weights_that_are_no_finite_floats_are_refused",
        ),
        (
            "checked(path, content, fields(self._parts(content, method, train, test), others=anything), DAMAGED)",
            "pass",
            "checkpoint::every_damaged_field_of_a_checkpoint_is_named",
        ),
        ("        _check_archive(path)\n", "", "checkpoint::a_checkpoint_whose_bytes_have_changed_is_refused"),
        ("self.draws.seed = self.seed", "pass", "resume::a_resumed_run_draws_with_the_seed_that_it_had_drawn"),
        ('if content["scaler"]:', "if True:", "resume::a_run_resumes_in_another_precision"),
    ],
    "engine/model_file.py": [
        ('if data[start:end] != f"{own:08x}".encode():', "if False:", "model_file::every_changed_byte_is_noticed"),
        (
            'if settings.get("seed") == int(seed[1]) and isinstance(where, str) and',
            "if isinstance(where, str) and",
            "model_file::the_config_of_another_run_is_not_taken",
        ),
    ],
    "tools/predict.py": [
        ("same and all(", "True or all(", "predict::a_stopped_prediction_goes_on_and_holds_few_videos_in_memory"),
        ("if not same:", "if False:", "predict::other_settings_start_anew_and_keep_the_earlier_files"),
    ],
    "tools/timelines.py": [
        ("if row[-1].end <= action.start), None)", "if True), None)", "predict::elan"),
        ("html.escape(plain(action.label), quote=False)", "plain(action.label)", "predict::subtitles"),
    ],
    "engine/report.py": [
        (
            "if 0 < EXPLODED * usual < record.get(name, 0)",
            "if False",
            "explosion::a_finite_explosion_is_told_once_and_in_the_report",
        ),
    ],
    "engine/files.py": [
        (
            'stack.enter_context(lock(folder / ".lock", partial(_refuse, folder)))',
            "pass",
            "main::the_folders_of_a_run_that_goes_on_are_not_written_to",
        ),
        ("set_aside(self._in_the_way(", "list((", "resume::a_second_run_keeps_the_files_of_the_first"),
        (
            'resumed and before.get("run") in (None, state.run)',
            "resumed",
            "resume::resume_moves_what_another_run_has_written_meanwhile",
        ),
        ("if not _is_kept(copy, paths))", "if False)", "run_folders::files_of_an_earlier_version_are_moved"),
        ("path.suffix != self.events_suffix", "False", "run_folders::seeds_in_one_folder_keep_their_files"),
        (
            "while any((folder / str(number)).exists() for folder in folders):",
            "while False:",
            "outputs::set_aside_moves_each_generation_to_its_own_folder",
        ),
        (
            "            if kept.exists():\n                os.replace(kept, path)",
            "            pass",
            "resume::the_best_of_a_longer_run_is_not_one_that_only_the_end_evaluated",
        ),
    ],
    "engine/recorder.py": [
        (
            'if not abs(losses["loss_total"]) < float("inf"):',
            "if False:",
            "main::a_diverging_run_stops_and_keeps_the_last_good_checkpoint",
        ),
        ("self.draw_cost / FIGURES_SHARE", "0", "loggers::pictures_take_a_share_of_the_time"),
    ],
    "engine/loggers.py": [
        ("purge_step=state.iteration", "purge_step=None", "resume::a_run_can_be_made_longer"),
        (
            "except Exception as error:\n                warn(",
            "except EOFError as error:\n                warn(",
            "loggers::a_logger_that_fails_later_stops_nothing",
        ),
    ],
    "engine/terminal.py": [
        ("with tqdm.external_write_mode(file=sys.stderr):", "if True:", "terminal::warnings_of_packages_go_above_the_bar"),
    ],
    "engine/workers.py": [
        (
            "threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()",
            "pass",
            "beside::workers_end_with_a_killed_parent",
        ),
        ("if failure:", "if False:", "beside::what_goes_wrong_in_a_worker_is_told"),
        (
            'self.pool, failure = None, ""\n                result = self.work(given)',
            "raise",
            "beside::what_a_killed_worker_was_to_do_is_done_here",
        ),
        (
            "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])",
            "pass",
            "beside::a_job_that_is_to_stop_is_saved_whatever_reaches_its_workers",
        ),
        ("PER_WORKER * self.workers", "100", "beside::results_come_in_the_order_of_their_beginning"),
    ],
    "engine/team.py": [
        ("if value is None or not least <= value < end:", "if value is None:", "team::a_team_that_is_described_wrongly"),
        ('if not os.environ.get("MASTER_ADDR"):', "if False:", "team::a_team_that_is_described_wrongly"),
        (
            "slice(self.rank * count // self.size, (self.rank + 1) * count // self.size)",
            "slice(0, count)",
            "team::shares_are_the_whole",
        ),
        ("slice(self.rank, None, self.size)", "slice(None)", "team::shares_are_the_whole"),
        ("return self.rank == 0", "return True", "team::a_signal_to_one_process_stops_both"),
    ],
    "engine/seeds.py": [
        ('if os.environ.get("WORLD_SIZE", "1") != "1":', "if False:", "seeds::seeds_under_torchrun_are_refused"),
        (
            "code, last_words = _run_seed(job)\n    except OSError as error:",
            "code, last_words = _run_seed(job)\n    except EOFError as error:",
            "seeds::a_seed_that_cannot_begin_takes_no_other_with_it",
        ),
        ("run.cache_budget /= on_a_device", "pass", "seeds::every_running_seed_has_its_share_of_the_machine"),
        ('END_WITH_STDIN: "1"', 'END_WITH_STDIN: ""', "seeds::seeds_end_with_a_killed_parent_and_are_resumed"),
        ("return same and", "return", "seeds::a_seed_knows_whether_its_command_still_lives"),
        ("self.looks < PATIENCE / POLL", "True", "seeds::a_seed_knows_whether_its_command_still_lives"),
        ("device = free.get()", "device = devices[0]", "seeds::every_running_seed_has_its_share_of_the_machine"),
    ],
    "engine/ending.py": [
        ("if not _unwinds or _imports(frame):", "if not _unwinds:", "ending::ctrl_c_where_python_or_a_package_would_go_on"),
        (
            "    _unwinds = False  # a second",
            "    # a second",
            "ending::a_second_ctrl_c_does_not_wait_for_the_clean_up_after_the_first",
        ),
        (
            "sys.excepthook, sys.unraisablehook = _uncaught, _unraisable",
            "pass",
            "ending::ctrl_c_where_python_or_a_package_would_go_on",
        ),
        ("os.kill(os.getpid(), signal.SIGTERM)", "pass", "ending::a_process_ends_with_its_standard_input_if_it_is_to"),
        ("os._exit(128 + signal.SIGTERM)", "pass", "ending::a_process_ends_with_its_standard_input_if_it_is_to"),
    ],
    "engine/locks.py": [
        (
            "        if _is_at(path, handle):\n            break",
            "        break",
            "locks::a_lock_on_a_file_that_its_holder_removes_is_none",
        ),
        ("                path.unlink()", "                pass", "locks::a_lock_says_who_holds_it_and_leaves_nothing"),
    ],
    "dataset/make_demo.py": [
        (
            'return lock(folder.with_name(f".{folder.name}.lock"), wait)',
            "return contextlib.nullcontext()",
            "make_demo::of_two_first_runs_one_makes_it_and_the_other_waits",
        ),
        (
            "        if not (folder.is_dir() and any(folder.iterdir())):\n            raise\n        return False",
            "        raise",
            "make_demo::a_folder_that_another_program_makes_meanwhile_is_left_as_it_is",
        ),
    ],
    "engine/device.py": [
        (
            'if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():',
            "if False:",
            "main::mistakes_end_with_one_message_and_code_2",
        ),
        (
            'os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_FP16")',
            "pass",
            "device::a_processor_that_does_not_do_what_it_announces",
        ),
        (
            "        if not multiplies(DTYPES[name]):\n            raise",
            "        if False:\n            raise",
            "device::a_processor_that_does_not_do_what_it_announces",
        ),
    ],
    "engine/summary.py": [
        ("        if differ:\n", "        if False:\n", "seeds::seeds_of_different_runs_are_not_averaged"),
        (
            "report.stat().st_mtime_ns >= log.stat().st_mtime_ns",
            "True",
            "seeds::unfinished_seeds_are_left_out_and_that_is_said",
        ),
        (
            "return run is not None and run.settings | wanted == run.settings",
            "return run is not None",
            "seeds::a_run_is_finished_if_it_is_this_very_run",
        ),
    ],
    "train.py": [
        (
            "progress.stepped())\n                self.stop_if_asked(stop)",
            "progress.stepped())",
            "resume::a_signal_stops_after_the_step_in_which_it_comes",
        ),
    ],
    "test.py": [
        (
            'if not np.isfinite(batch["score"]).all():',
            "if False:",
            "main::a_diverging_run_stops_and_keeps_the_last_good_checkpoint",
        ),
        ("if size > MOST_RATIO * packed:", "if False:", "sizes::activations_that_unpack_to_much_more_are_refused"),
        ("if not fits or not typed or 0 in array.shape:", "if False:", "main::activations_of_something_else_are_refused"),
        ("            if narrow:", "            if False:", "load::localization_finds_the_same_in_the_columns_that_are_kept"),
        ("for quirk in sorted(lost) if lost[quirk]}", "for quirk in ()}", "quirks::what_quirks_take_is_counted"),
        ("if not np.isfinite(array).all() or (", "if False and (", "main::activations_of_something_else_are_refused"),
    ],
    "utils.py": [
        (
            "signal.signal(signal.SIGINT, end_at_once)",
            "signal.signal(signal.SIGINT, signal.SIG_IGN)",
            "ending::ctrl_c_does_not_wait_for_the_end_of_a_run_that_has_saved",
        ),
        (
            "if self.received is not None and number == signal.SIGINT:",
            "if False:",
            "utils::the_first_signal_waits_and_a_second_ctrl_c_does_not",
        ),
        (
            "self.received is not None and number == signal.SIGINT",
            "self.received is not None",
            "utils::the_first_signal_waits_and_a_second_ctrl_c_does_not",
        ),
        ("if debug or error.errno not in OUTSIDE:", "if True:", "utils::exit_codes"),
        ('f".{path.name}.*.part"', '".*.part"', "utils::only_our_own_halves_are_removed"),
    ],
    "eval/files.py": [
        (
            'handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")',
            "handle, name = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC), str(path)",
            "utils::a_failed_write_leaves_the_old_file_and_nothing_else",
        ),
        ("            os.unlink(name)", "            pass", "utils::a_failed_write_leaves_the_old_file_and_nothing_else"),
        ("error.filename = str(path)", "pass", "utils::a_full_disk_names_the_file"),
    ],
    "localize.py": [
        ("if overlap < threshold or (", "if overlap <= threshold or (", "localize::suppression_is_that_of_pairs"),
        ("overlap == threshold):", "False):", "localize::suppression_is_that_of_pairs"),
        ('kind="mergesort")[::-1]', 'kind="mergesort")', "localize::of_equal_scores_the_later_proposal_goes_first"),
        (
            "min(max(int(np.ceil(position)), 1), snippets - 1)\n            left",
            "min(max(int(np.ceil(position)), 1), snippets)\n            left",
            "quirks::b10_the_upsampled_tail_is_extrapolated",
        ),
        ("count[last == 1] = 0", "pass", "localize::backtal_loses_a_support_that_is_the_first_frame_alone"),
        (
            "if any(sorted(sweep.thresholds) != list(sweep.thresholds) for sweep in self.sweeps):",
            "if False:",
            "localize::a_method_that_describes_its_curves_wrongly_is_told",
        ),
        (
            "if snippets == 0 or (self.points % snippets and not self.resize):",
            "if False:",
            "localize::a_method_that_describes_its_curves_wrongly_is_told",
        ),
        (
            "pool.shutdown(cancel_futures=True)",
            "pool.shutdown()",
            "localize::an_exception_while_curves_are_described_stops_at_once",
        ),
    ],
    "eval/table.py": [
        ("sum(counts) != len(self.label) or ", "", "load::a_file_is_read_as_its_content"),
        ("any(row is not self for", "any(False for", "load::a_fault_in_a_file_is_told_as_in_its_content"),
        ("                    return self\n", "", "load::many_detections_are_written_and_read_in_little_memory"),
        ("check_database(database, where)", "pass", "reading::a_run_and_the_scorer_accept_the_same_annotations"),
        ('if column.dtype.kind in "fiu":', "if True:", "reading::odd_numbers_in_columns_are_refused"),
        (" and kind is not bool", "", "eval::bad_detections_are_named"),
        ("if not (np.isfinite(numbers).all() and np.isfinite(times).all()):", "if False:", "eval::bad_detections_are_named"),
        ('if unlisted == "ignore":', "if True:", "eval::unlisted_videos_are_told_without_a_warning"),
        ('if unlisted == "ignore":', "if False:", "eval::unlisted_videos_are_told_without_a_warning"),
        (
            "keep, listed = label >= 0, video < len(truth.videos)",
            "listed = video < len(truth.videos)\n    keep = np.ones_like(listed)",
            "eval::unknown_labels_are_ignored_with_a_warning_and_no_prediction_scores_zero",
        ),
    ],
    "eval/reading.py": [
        ("if len(content) < len(pairs):", "if False:", "eval::bad_detections_are_named"),
        ("if len(content) < len(pairs):", "if False:", "reading::a_run_and_the_scorer_accept_the_same_annotations"),
        (
            "if not stat.S_ISREG(state.st_mode):",
            "if stat.S_ISDIR(state.st_mode):",
            "reading::only_regular_files_are_read[socket]",
        ),
        ('"_" not in value and ', "", "reading::what_is_no_number[1_0]"),
        ("len(value) <= MOST_CHARACTERS", "True", "reading::what_is_no_number"),
        (" and not isinstance(value, bool)\n    try", "\n    try", "reading::what_is_no_number[True]"),
        ("if not math.isfinite(result):", "if math.isnan(result):", "reading::what_is_no_number"),
        ("        check_video_name(name, where)\n", "", "reading::videos_with_odd_names_are_refused"),
        ("if subsets and not is_text", "if False and not is_text", "reading::all_videos_name_a_subset_or_none_does"),
        ("or len(pair) != 2", "", BAD_FOLDER + "[segment of three]"),
        ("if not _is_duration(", "if False and not _is_duration(", "reading::odd_durations_are_refused"),
    ],
    "eval/report.py": [
        ('r"[\\\\|<`\\[]"', 'r"[<`\\[]"', "outputs::odd_names_break_no_table"),
        ('return f"\'{name}" if name.startswith', "return name if name.startswith", "outputs::odd_names_break_no_table"),
    ],
    "engine/flags.py": [
        ("if value > most:", "if False:", "sizes::each_size_has_a_bound"),
        (
            "if odd := [word for word in words if not is_text(word)]:",
            "if odd := []:",
            "options::a_path_that_is_not_utf8_is_refused_at_start",
        ),
        (" - len(seeds)):", "):", "sizes::many_ranges_of_seeds_are_bounded_together"),
    ],
    "options.py": [
        (
            "if not is_text(values[",
            "if False and not is_text(values[",
            "options::a_description_behind_a_link_is_refused_by_its_own_path",
        ),
    ],
    "config.py": [
        (
            "if num_iters is not None and num_iters > MOST_ITERATIONS:",
            "if False:",
            "sizes::a_schedule_is_not_expanded_beyond_the_bound",
        ),
        (" and len(first) + len(second) <= MOST_ITERATIONS", "", "sizes::a_schedule_is_not_expanded_beyond_the_bound"),
    ],
    "eval/protocols.py": [
        ("if is_ambiguous.all():", "if False:", "protocols::ambiguous_segments_of_a_json_are_no_class"),
    ],
    "eval/kinds.py": [
        ("claims = claims[free[claims[:, 1]]]", "pass", "diagnosis::what_a_detection_concerns"),
        ("elif len(covered) > 1:", "elif False:", "diagnosis::the_kind_of_a_detection[over two instances]"),
    ],
    "eval/mending.py": [
        ("return np.where(counts > 0, ap, 1.0)", "return ap", "diagnosis::properties"),
        ("keep = np.flatnonzero(~detections)", "keep = np.arange(len(detections))", "diagnosis::gains_by_hand"),
    ],
    "eval/diagnosis.py": [
        (
            "rows.append([csv_cell(name), csv_cell(label),",
            "rows.append([name, label,",
            "diagnosis::names_that_a_spreadsheet_would_compute",
        ),
        ("if not 0 < threshold <= 1:", "if False:", "diagnosis::bad_thresholds"),
    ],
    "eval/bootstrap.py": [
        ("video[ranking.order], weights", "video, weights", "bootstrap::a_draw_is_scored_as_repeated_videos"),
    ],
    "engine/charts.py": [
        ('"text.parse_math": False,', "", "figure::figures_of_detections_of_other_code"),
    ],
    "tools/report/pack.py": [
        ('text.replace("<", "\\\\u003c")', "text", "report::no_name_ends_a_script"),
    ],
    "tools/report/runs.py": [
        ("not fits(value, types[name])", "False", "report::settings_of_another_type"),
        ("if not is_record(records[-1]):", "if False:", "report::damaged_files"),
    ],
    "tools/report/localize.js": [
        (" + 1 - rightLess", " + 1", "report_localize::javascript_finds_what_python_finds"),
        ("proposals[b].score || a - b)", "proposals[b].score || b - a)", "report_localize::javascript_finds_what_python_finds"),
    ],
    "tools/report/judge.js": [
        ("const INSIDE = 0.5", "const INSIDE = 0.6", "report_localize::javascript_judges_as_python_does")
    ],
    "tools/report/live.js": [
        ("rule.strict ? scores[k] > single : ", "", "report_localize::stored_videos_give_the_detections_of_the_run")
    ],
    "tools/lab.py": [
        ("if flag not in allowed:", "if False:", "lab::mistakes"),
        ("if both := sorted(training.keys() & activations.keys()):", "if both := []:", "lab::choosing_on_other_videos"),
    ],
    "eval/eval_detection.py": [
        ("value = np.float64(np.float32(value))", "pass", "um::l8_overlaps_in_single_precision_reach_the_score"),
        ("if ties not in TIES:", "if False:", "eval::other_bad_input_is_named"),
        (
            "    if thresholds.ndim != 1 or not len(thresholds) or not np.isfinite(thresholds).all():",
            "    if False:",
            "eval::other_bad_input_is_named",
        ),
    ],
    "fast/adam.py": [
        ("if values.stride() != parameter.stride():", "if False:", "model::adam_on_weights_that_lie_otherwise"),
        (
            "memory = (parameter, parameter.grad, *self.state[parameter].values())",
            "memory = (parameter, parameter.grad)",
            "model::adam_on_weights_that_lie_otherwise",
        ),
        ("torch.autograd.graph.increment_version(updated)", "pass", "model::a_step_of_adam_is_noticed"),
        (
            "            return super().step()\n        finally:\n",
            "            found = super().step()\n        except ZeroDivisionError:\n            pass\n        else:\n",
            "model::adam_whose_step_fails_leaves_weights_as_they_are",
        ),
        (
            "self._view(parameter, shape, stride)",
            "self._view(parameter, shape, torch.empty(shape).stride())",
            "model::adam_on_weights_that_lie_otherwise",
        ),
        (
            "self._view(parameter, (parameter.numel(),), (1,))",
            "pass",
            "model::adam_makes_no_copies_of_weights_that_lie_otherwise",
        ),
    ],
    "fast/conv.py": [
        (
            "if products_nko is None or state != state_before:",
            "if products_nko is None:",
            "edits::shared_products_are_those_of_the_weights_now",
        ),
        (
            "torch.is_grad_enabled(), index_state)",
            "torch.is_grad_enabled())",
            "edits::products_are_found_at_the_times_of_the_index_now",
        ),
        (
            "if not plain or self.padding not in",
            "if self.padding not in",
            "edits::what_a_fast_layer_does_not_compute_is_refused",
        ),
    ],
    "fast/products.py": [
        (
            "matrix if matrix.is_contiguous() or matrix.t().is_contiguous() else matrix.contiguous()",
            "matrix",
            "products::gaps_do_not_make_onednn_slow",
        ),
        (
            "if not isinstance(chosen, str) or chosen not in NAMES or",
            "if chosen is None or",
            "products::what_was_remembered_for_others_or_damaged_is_probed_anew",
        ),
        ('best["conv"] *= SHARED', "pass", "products::the_quickest_is_taken"),
        ("    cached = _cached()\n", "    cached = {}\n", "products::the_choice_is_remembered"),
    ],
}
CASES = [pytest.param(file, *case, id=f"{file}:{number}") for file in MUTATIONS for number, case in enumerate(MUTATIONS[file])]


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository without anything but its own files."""
    folder = tmp_path_factory.mktemp("mutations") / "main"
    folder.mkdir()
    for path in [*ROOT.glob("*.*"), *{path.parent for path in ROOT.glob("[a-z]*/*.py")}, ROOT / "docs", ROOT / "LICENSE"]:
        if path.is_dir():
            shutil.copytree(path, folder / path.name, ignore=shutil.ignore_patterns("__pycache__"))
        elif not path.name.startswith("."):
            shutil.copy(path, folder)
    return folder


def run_tests(folder: Path, tests: list[str]) -> subprocess.CompletedProcess[str]:
    """Until the first that fails; kernels as plain Python, which takes less time than to compile them."""
    line = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", "-m", "not slow"]
    places = [f"tests/test_{file}.py::test_{test}" for file, _, test in (name.partition("::") for name in tests)]
    environment = one_thread() | {"NUMBA_DISABLE_JIT": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run([*line, *places], cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def unchanged(request: pytest.FixtureRequest, copy: Path) -> None:
    """All tests that are to fail pass before anything is taken out."""
    own = {item.callspec.params["test"] for item in request.session.items if item.path == request.path}
    done = run_tests(copy, sorted(own))
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("file", MUTATIONS)
def test_every_protection_stands_once_where_it_is_said_to_stand(file: str) -> None:
    """Else it has moved: write here what stands there now. So with the tests."""
    source = (ROOT / file).read_text()
    assert [text for text, _, _ in MUTATIONS[file] if source.count(text) != 1] == []
    for _, _, test in MUTATIONS[file]:
        of, name = test.split("[")[0].split("::")
        assert f"def test_{name}(" in (ROOT / "tests" / f"test_{of}.py").read_text()


@pytest.mark.slow
@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(("file", "text", "instead", "test"), CASES)
def test_the_tests_notice(copy: Path, file: str, text: str, instead: str, test: str) -> None:
    source = (ROOT / file).read_text()
    try:
        (copy / file).write_text(source.replace(text, instead))
        done = run_tests(copy, [test])
    finally:
        (copy / file).write_text(source)
    if done.returncode == 0 and " passed" not in done.stdout:
        pytest.skip("its test is skipped on this machine")
    assert done.returncode == 1, done.stdout
