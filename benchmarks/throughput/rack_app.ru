# Rack::Sendfile in front of Rack's own file server; nginx says the mapping, as Rack's documentation has it.
require "rack"

use Rack::Sendfile, "X-Accel-Redirect"
map "/rack" do
  run Rack::Files.new(ENV.fetch("FILES"))
end
