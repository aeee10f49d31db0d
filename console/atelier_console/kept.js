/** What "make again" takes along that the form has no field for: without it another picture would come. */

const count = (list, word) => list?.length && `${list.length} ${word}${list.length > 1 ? "s" : ""}`;

/** Return the rest of the request that made something here, as the API takes it; of what came from elsewhere nothing. */
export function keptOf({ job_id: job, settings, reference_images: references, warn_on_enhancement_failure: warns }) {
  if (!job || !settings) return {};
  const { steps, guidance, scheduler, loras, frames, frame_rate: rate, aspect_ratio: aspect, width, height } = settings;
  const rest = { steps, guidance, scheduler, loras, reference_images: references };
  if (frames && rate) Object.assign(rest, { duration_seconds: frames / rate, frame_rate: rate });
  if (!aspect) Object.assign(rest, { width, height });
  if (warns) rest.on_enhancement_failure = "warn";
  // A guidance of 0 says something.
  const said = ([name, value]) => (name === "guidance" ? typeof value === "number" : value && value.length !== 0);
  return Object.fromEntries(Object.entries(rest).filter(said));
}

/** Return the rest of a request as far as it goes with what the form says now. */
export function fitting(kept, body) {
  const { width, height, on_enhancement_failure: onFailure, ...rest } = kept;
  if (width && !body.aspect_ratio) Object.assign(rest, { width, height });
  if (onFailure && body.enhance_prompt) rest.on_enhancement_failure = onFailure;
  return rest;
}

/** Return in words what is taken along; "" for nothing. */
export function wordsOf({ steps, guidance, scheduler, loras, reference_images: references, duration_seconds: seconds, width, height }) {
  return [
    width && `${width}×${height}`, steps && `${steps} steps`, typeof guidance === "number" && `guidance ${guidance}`, scheduler,
    count(loras, "LoRA"), count(references, "reference"), seconds && `${seconds} s`,
  ].filter(Boolean).join(", ");
}
