-- What wrk asks for, told by the environment (bench/http.py sets it; by hand it works as well):
--   UNBROKEN_KEY       appId.keyId:secret, in base64
--   UNBROKEN_PATH      of the request
--   UNBROKEN_MESSAGES  so many in one POST; 0 is a GET
--   UNBROKEN_BYTES     of each message's data
local messages = tonumber(os.getenv("UNBROKEN_MESSAGES") or "1")
local message = '{"name":"event","data":"' .. string.rep("x", tonumber(os.getenv("UNBROKEN_BYTES") or "100")) .. '"}'

wrk.path = os.getenv("UNBROKEN_PATH") or "/channels/room/messages"
wrk.headers["Authorization"] = "Basic " .. os.getenv("UNBROKEN_KEY")
if messages > 0 then
  wrk.method = "POST"
  wrk.headers["Content-Type"] = "application/json"
  local all = {}
  for i = 1, messages do all[i] = message end
  wrk.body = messages == 1 and message or "[" .. table.concat(all, ",") .. "]"
end
