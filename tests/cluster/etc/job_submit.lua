-- What ordinary users may submit: -C is mandatory, QOS and -C choose the partition,
-- and the interactive QOS is for salloc and srun only (a job with a script is a batch job).

local function refuse(text)
   slurm.log_user(text)
   slurm.log_user("Job request does not match any supported policy.")
   return slurm.ERROR
end

local function partition_of(features)
   if string.find(features, "haswell") then return "haswell" end
   if string.find(features, "knl") then return "knl" end
   return nil
end

function slurm_job_submit(job_desc, part_list, submit_uid)
   if submit_uid == 0 then return slurm.SUCCESS end
   local qos = job_desc.qos
   if qos == "interactive" and job_desc.script ~= nil then
      return refuse("The interactive QOS does not take batch jobs (sbatch): use salloc or srun.")
   end
   if job_desc.partition ~= nil then return slurm.SUCCESS end
   if qos == "realtime" then
      job_desc.partition = "realtime"
   elseif qos == "shared" then
      job_desc.partition = "shared"
      job_desc.features = job_desc.features or "haswell"
   elseif job_desc.features == nil then
      return refuse("No hardware architecture specified (-C)!")
   else
      job_desc.partition = partition_of(job_desc.features)
   end
   return slurm.SUCCESS
end

function slurm_job_modify(job_desc, job_rec, part_list, modify_uid)
   return slurm.SUCCESS
end

return slurm.SUCCESS
